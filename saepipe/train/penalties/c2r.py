"""C2R: OrtSAE's term, stronger for latents that are more active (arXiv 2606.30609)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from saepipe.data.config.base import Count
from saepipe.train.pairs import selection
from saepipe.train.pairs.hinge import hinge
from saepipe.train.pairs.nearest_in_chunk import initial_nearest, nearest_pairs, nearest_statistics
from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext, WhenRead
from saepipe.train.setting import SettingsNow


class C2R(Penalty):
    """P^(1 - alpha / 2) / d_sae * sum_i relu(max_j d_i . d_j)^2 (r_i + r_j)^alpha; P = E_b |x|^2, r_i^2 = E_b acts_i^2.

    j is the nearest latent in a random chunk, as in `ortsae`. Gradients reach the rows and the activations.
    The paper uses the norm of a latent's activations over the batch. The mean square used here does not grow with the
    batch, and the power of P makes a weight mean the same at every scale of x.
    """

    name: Literal["c2r"] = "c2r"
    dense_arrays: ClassVar = 1
    statistics: ClassVar = selection.RANGES
    draws: ClassVar = True

    alpha: Annotated[float, Field(gt=0, le=2)] = 1.0
    chunk: Annotated[Count, Field(ge=4)] = Field(4096, description="largest number of latents per chunk")
    every: Annotated[Count, Field(ge=1)] = Field(5, description="steps between two searches")

    def draws_at(self, step: int) -> bool:
        return step % self.every == 0

    def init_state(self, d_in: int, d_sae: int) -> State:
        return initial_nearest(d_sae)

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        due = self.draws_at(ctx.step)
        state, pairs, cosine = nearest_pairs(state, ctx.W_dec, ctx.uniform, self.chunk, due=due)
        mean_square = ctx.over_batch(torch.square) / len(ctx.x)
        rms = (mean_square + 1e-12).sqrt()  # a silent latent gets no gradient instead of an infinite one
        both = rms + rms[pairs.j]
        strength = both if self.alpha == 1 else both**self.alpha
        scale = ctx.power ** (1 - self.alpha / 2) / len(cosine)
        value = scale * hinge(ctx.W_dec, pairs, cosine, strength)
        statistics = WhenRead(lambda: nearest_statistics(state, ctx.W_dec, pairs, cosine))
        return Penalised(value, statistics, state)
