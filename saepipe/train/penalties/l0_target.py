"""Sparsity penalty that adjusts its own weight, so that all runs of a study reach a common L0."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from saepipe.train.penalties.base import ANY, Penalised, Penalty, State, StepContext, WhenRead
from saepipe.train.penalties.l1 import L1
from saepipe.train.sae.base import Architecture
from saepipe.train.schedule import Controller, controllers, settings_at
from saepipe.train.setting import Setting, SettingsNow


class L0Target(Penalty):
    """Another penalty, its weight steered until `l0` latents per token are active, then held.

    `weight` is the initial weight, and `until` the fraction of the run after which the weight is held. The weight that
    `penalty` sets for itself multiplies it.
    """

    name: Literal["l0_target"] = "l0_target"
    lowers_l0: ClassVar = True
    statistics: ClassVar = {"l0": ANY, "weight": ANY}
    l0: Annotated[float, Field(gt=0)]
    weight: Annotated[float, Field(gt=0)] = 1.0
    penalty: Penalty = L1(weight=1.0)
    gain: Annotated[float, Field(gt=0, le=1)] = 0.03
    until: Annotated[float, Field(gt=0, le=1)] = 0.8

    def refuses(self, sae: Architecture) -> str | None:
        if sae.num_active is not None:
            return f"{sae.name} has k = {sae.num_active}: set k instead, its L0 needs no steering"
        if self.penalty.draws or controllers(self.penalty):
            return f"{self.penalty.name} cannot be steered: it uses random numbers, or is steered already"
        if sae.name == "jumprelu" and self.penalty.name == "l0":
            return f"thresholds react too slowly to their weight to be steered; use {{name: l0, target: {self.l0:g}}}"
        return self.penalty.refuses(sae)

    def sums_over_latents(self) -> bool:
        return self.penalty.sums_over_latents()

    def reads_pre_acts(self, sae: Architecture) -> Literal["active", "dead", "all"]:
        return self.penalty.reads_pre_acts(sae)

    def held_arrays(self) -> float:
        return self.penalty.held_arrays()

    def settings(self) -> dict[str, Setting]:
        steering = Controller(steer="l0", to=self.l0, start=self.weight, gain=self.gain, until=self.until)
        return {"weight": steering}

    def init_state(self, d_in: int, d_sae: int) -> State:
        return self.penalty.init_state(d_in, d_sae)

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        inner = settings_at(self.penalty, ctx.step, ctx.num_steps)
        answer = self.penalty(ctx, state, inner)
        value = answer.value if inner["weight"] == 1 else answer.value * inner["weight"]
        statistics = WhenRead(lambda: {"l0": ctx.l0, "weight": ctx.x.new_zeros(()) + now["weight"]})
        return Penalised(value, statistics, answer.state)
