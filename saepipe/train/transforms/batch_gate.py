"""Gate that keeps the batch's largest activations: study B's gating, moved before the decoder."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch

from saepipe.train.sae.base import is_active
from saepipe.train.schedule import Schedule
from saepipe.train.setting import Setting, SettingsNow, within
from saepipe.train.transforms.base import Codes, State, Transform, Transformed, ends_at


class BatchGate(Transform):
    """acts -> acts at the largest of a batch's activations (`keep`, a share of those above 0), 0 elsewhere.

    A BatchTopK whose k is a share of the active entries, so that latents learn first from tokens on which they are
    large. `keep` must reach 1 before the run ends, since the saved SAE has no gate.
    """

    name: Literal["batch_gate"] = "batch_gate"
    keeps_zeros: ClassVar = True
    statistics: ClassVar = {"kept_share": (0.0, 1.0), "kept_mass": (0.0, 1.0)}
    keep: Annotated[Setting, within(0.001, 1), ends_at(1)] = Schedule(start=0.5, end=1.0, finish=0.8)

    def __call__(self, codes: Codes, state: State, now: SettingsNow) -> Transformed:
        flat = codes.acts.flatten()
        num_active = int(is_active(flat).sum())
        values, indices = flat.topk(round(float(now["keep"]) * num_active), sorted=False)
        acts = torch.zeros_like(flat).scatter(0, indices, values)
        kept, total = (part.detach().sum(dtype=torch.float32) for part in (values, flat))
        mass = kept / total.clamp_min(1e-12)
        share = mass.new_tensor(len(values) / max(1, num_active))
        return Transformed(acts.view_as(codes.acts), {"kept_share": share, "kept_mass": mass}, state)
