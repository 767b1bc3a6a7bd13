"""A custom penalty in one file outside the package.

    saepipe validate hoyer --set 'plugins=[examples/hoyer.py]'
    saepipe train --config my.yaml --set 'plugins=[examples/hoyer.py]' --set 'penalties=[{name: hoyer, weight: 1.0}]'

Hoyer's measure (2004, JMLR 5): (sqrt(n) - |f|_1 / |f|_2) / (sqrt(n) - 1) is 1 for one active latent, 0 for n equal
ones. A small ratio |f|_1 / |f|_2 means sparse, and the ratio does not shrink f: it is the same for 2 f as for f.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from saepipe.train.penalties.base import ANY, Penalised, Penalty, State, StepContext
from saepipe.train.setting import SettingsNow


class Hoyer(Penalty):
    """sqrt(E_b |x|^2) E_b |acts|_1 / |acts|_2.

    The ratio's gradient for acts_i is (1 - acts_i |acts|_1 / |acts|_2^2) / |acts|_2: it pushes small activations down
    and large ones up. The root of the power gives it the units of L1, so a weight means the same at every scale of x.
    """

    name: Literal["hoyer"] = "hoyer"
    lowers_l0: ClassVar = True
    statistics: ClassVar = {"ratio": ANY}

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        acts = ctx.gate_acts.to(ctx.x.dtype)
        # A token without active latents has no ratio; the clamp keeps 0 / 0 out of the gradient too.
        length = acts.square().sum(1).clamp_min(1e-12).sqrt()
        ratio = (acts.sum(1) / length).mean()
        return Penalised(ctx.power.sqrt() * ratio, {"ratio": ratio.detach()}, state)
