"""Deliberately faulty penalties, each with one fault; a plugin that only the mutations load."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch

from saepipe.train.penalties.base import ANY, SHARE, Penalised, Penalty, State, StepContext
from saepipe.train.setting import SettingsNow


class NoGradient(Penalty):
    """A count: correct, but without a slope."""

    name: Literal["fault_no_gradient"] = "fault_no_gradient"

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        return Penalised((ctx.acts > 0.01).float().mean(), {}, state)


class WrongAxis(Penalty):
    """Cosines of input coordinates, weighted by the co-activation of latents: the shapes fit only if d_in = d_sae."""

    name: Literal["fault_wrong_axis"] = "fault_wrong_axis"

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        cosines = ctx.W_dec.T @ ctx.W_dec
        together = (ctx.acts.T @ ctx.acts).detach() / len(ctx.x)
        return Penalised((together * cosines).mean(), {}, state)


class SelfPairs(Penalty):
    """All cosines, including the diagonal."""

    name: Literal["fault_self_pairs"] = "fault_self_pairs"
    statistics: ClassVar = {"num_pairs": ANY, "self_share": SHARE}

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        d_sae = len(ctx.W_dec)
        pairs = torch.tensor(float(d_sae * d_sae))
        cosines = ctx.W_dec @ ctx.W_dec.T
        return Penalised(cosines.square().mean(), {"num_pairs": pairs, "self_share": d_sae / pairs}, state)


class Overflow(Penalty):
    """L1 times e^step, which overflows float32 from step 89 on."""

    name: Literal["fault_overflow"] = "fault_overflow"

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        growing = torch.tensor(float(ctx.step)).exp()
        return Penalised(ctx.acts_sum.sum() / len(ctx.x) * growing, {}, state)


class Dies(Penalty):
    """L1 for the first 60 % of the run, then nothing."""

    name: Literal["fault_dies"] = "fault_dies"

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        alive = float(ctx.step < 0.6 * ctx.num_steps)
        return Penalised(alive * ctx.acts_sum.sum() / len(ctx.x), {}, state)


class Raises(Penalty):
    """L1 that raises an error in step 120."""

    name: Literal["fault_raises"] = "fault_raises"

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        if ctx.step == 119:
            raise ValueError("no such pair")
        return Penalised(ctx.acts_sum.sum() / len(ctx.x), {}, state)
