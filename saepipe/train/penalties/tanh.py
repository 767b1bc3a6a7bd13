"""Saturating sparsity penalty (Jermyn et al. 2024; with JumpReLU: Conerly et al. 2025, Circuits Updates, January)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext
from saepipe.train.setting import Setting, SettingsNow, within


class Tanh(Penalty):
    """E_b sum_i tanh(c acts_i |W_dec_i|): close to c L1 for acts well below 1 / c, and close to L0 well above.

    Slope: c (1 - tanh^2(c acts_i)), so large activations hardly shrink. A larger c is closer to L0, and acts on fewer
    activations. Conerly et al. use c = 4, with activations scaled like ours: |x|^2 is d_in on average.
    """

    name: Literal["tanh"] = "tanh"
    lowers_l0: ClassVar = True
    dense_arrays: ClassVar = 1
    c: Annotated[Setting, within(1e-6, 1e6)] = 4.0

    def sums_over_latents(self) -> bool:
        return True

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        # |W_dec_i| = 1, as in `l1`.
        return Penalised(ctx.over_gates(lambda gates: (now["c"] * gates).tanh()) / len(ctx.x), {}, state)
