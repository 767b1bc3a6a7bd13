"""Activations that must be among the batch's largest: study B's gating, before the decoder."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch

from saepipe.train.setting import Schedule, Setting, SettingsNow, within
from saepipe.train.transforms.base import Codes, State, Transform, Transformed, ends_at


class BatchGate(Transform):
    """acts -> acts at the largest `keep` of a batch's activations (a share of those above 0), 0 elsewhere.

    A BatchTopK whose k is a share of what fires, so that latents learn first from the tokens at which they are large.
    `keep` must reach 1 before the run ends, since the SAE that is saved has no gate.
    """

    name: Literal["batch_gate"] = "batch_gate"
    statistics: ClassVar = {"kept_share": (0.0, 1.0), "kept_mass": (0.0, 1.0)}
    keep: Annotated[Setting, within(0.001, 1), ends_at(1)] = Schedule(start=0.5, end=1.0, finish=0.8)

    def __call__(self, codes: Codes, state: State, now: SettingsNow) -> Transformed:
        flat = codes.acts.flatten()
        num_active = int((flat > 0).sum())
        values, indices = flat.topk(round(float(now["keep"]) * num_active), sorted=False)
        acts = torch.zeros_like(flat).scatter(0, indices, values)
        kept, whole = (some.detach().sum(dtype=torch.float32) for some in (values, flat))
        mass = kept / whole.clamp_min(1e-12)
        share = mass.new_tensor(len(values) / max(1, num_active))
        return Transformed(acts.view_as(codes.acts), {"kept_share": share, "kept_mass": mass}, state)
