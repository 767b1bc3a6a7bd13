"""Inhibition between similar latents: study B's competition, moved before the decoder and based on similarity."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from saepipe.data.config.base import Count
from saepipe.train.pairs.search import nearest
from saepipe.train.sae.base import is_active
from saepipe.train.schedule import Schedule
from saepipe.train.setting import Setting, SettingsNow, within
from saepipe.train.transforms.base import Codes, State, Transform, Transformed, ends_at


class Inhibition(Transform):
    """acts_i -> max(acts_i - strength sum_j max(cos_ij, 0) acts_j, 0), over the m latents j most similar to i.

    cos_ij is the cosine of two decoder rows, without gradient. The m neighbours are searched every `refresh_every`
    steps. The strength must reach 0 before the run ends, since the saved SAE has no inhibition.
    """

    name: Literal["inhibition"] = "inhibition"
    keeps_zeros: ClassVar = True
    statistics: ClassVar = {"lost_share": (0.0, 1.0), "silenced_share": (0.0, 1.0), "cos": (0.0, 1.0)}
    strength: Annotated[Setting, within(0, 10), ends_at(0)] = Schedule(start=0.5, end=0.0, finish=0.8)
    m: Annotated[Count, Field(ge=1, le=1024)] = 4
    refresh_every: Annotated[Count, Field(ge=1)] = 100

    def init_state(self, d_in: int, d_sae: int) -> State:
        m = min(self.m, d_sae - 1)
        return {"neighbours": torch.zeros(d_sae, m, dtype=torch.int64)}

    def __call__(self, codes: Codes, state: State, now: SettingsNow) -> Transformed:
        W_dec, neighbours = codes.W_dec.detach(), state["neighbours"]
        if codes.step % self.refresh_every == 0:
            _, neighbours = nearest(W_dec, neighbours.shape[1])
        cos = torch.stack([torch.linalg.vecdot(W_dec, W_dec[column]) for column in neighbours.T]).relu()
        rivals = torch.zeros_like(codes.acts)
        for weight, column in zip(cos.to(codes.acts.dtype), neighbours.T, strict=True):
            rivals = rivals + weight * codes.acts[:, column]
        acts = (codes.acts - now["strength"] * rivals).relu()
        before, after = (array.detach().sum(dtype=torch.float32) for array in (codes.acts, acts))
        active = is_active(codes.acts).sum().clamp_min(1)
        statistics = {
            "lost_share": 1 - after / before.clamp_min(1e-12),
            "silenced_share": 1 - is_active(acts).sum() / active,
            "cos": cos.mean(),
        }
        return Transformed(acts, statistics, {"neighbours": neighbours})
