"""Contract checks on every penalty, and the formulas of L1 and AuxK."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from saepipe.data.config.component import import_members
from saepipe.data.config.plugin_errors import AnswerError
from saepipe.train.penalties.auxk import AuxK
from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext, WhenRead, ask
from saepipe.train.penalties.contract import CHECKS
from saepipe.train.penalties.l1 import L1
from saepipe.train.schedule import settings_at
from saepipe.train.setting import SettingsNow

import_members(Penalty.package)

REQUIRED: dict[str, dict[str, Any]] = {"l0_target": {"l0": 5.0}}
"""Values for settings without a default, by penalty."""


@pytest.mark.parametrize("name", sorted(Penalty.members))
@pytest.mark.parametrize("check", CHECKS)
def test_contract(name: str, check: str) -> None:
    penalty = Penalty.members[name].parse({"weight": 0.5, **REQUIRED.get(name, {})})
    assert isinstance(penalty, Penalty)
    assert CHECKS[check](penalty) is None


class Faulty(Penalty):
    """L1 with one fault, named after the check that must find it."""

    fault: str

    def sums_over_latents(self) -> bool:
        return True

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        value = ctx.acts_sum.sum() / len(ctx.x)
        match self.fault:
            case "gradient":
                value = value + (ctx.W_dec.sum() - ctx.W_dec.sum().detach())
            case "constant":
                value = value.detach() + 0 * ctx.b_dec.sum()
            case "batch size":
                value = value * len(ctx.x)
            case "order of latents":
                value = (ctx.acts_sum * torch.arange(len(ctx.acts_sum))).sum() / len(ctx.x)
            case "purity":
                ctx.acts.detach().mul_(1.5)
            case "answer":
                return Penalised(value, {"undeclared": value.detach()}, state)
            case "stacking":
                value = value * float(ctx.acts.detach().max() > 0)
            case "parts":
                value = value + value.square()
            case "sparse step":
                value = value + ctx.gate_values.numel() / len(ctx.x)  # of another shape in a sparse step
        return Penalised(value, {}, state)


@pytest.mark.parametrize("check", CHECKS)
def test_each_check_finds_its_fault(check: str) -> None:
    assert CHECKS[check](Faulty(name="faulty", weight=0.5, fault="none")) is None
    assert CHECKS[check](Faulty(name="faulty", weight=0.5, fault=check)) is not None


def test_a_penalty_without_any_gradient_is_found() -> None:
    problem = CHECKS["gradient"](Faulty(name="faulty", weight=0.5, fault="constant"))
    assert problem == "it has no gradient for any tensor of a step"


def value(penalty: Penalty, ctx: StepContext) -> Tensor:
    return penalty(ctx, penalty.init_state(24, 40), settings_at(penalty, 0, 10)).value


def test_l1_is_the_mean_sum_of_activations(ctx: StepContext) -> None:
    expected = sum(sum(row) for row in ctx.acts.tolist()) / len(ctx.acts)
    assert value(L1(weight=1), ctx).item() == pytest.approx(expected)


def test_auxk_token_by_token(ctx: StepContext) -> None:
    """Computes the paper's definition in loops: the k_aux largest dead latents reconstruct the error."""
    dead = ctx.dead.nonzero().flatten().tolist()
    unexplained = []
    for pre, error in zip(ctx.pre_acts.detach(), (ctx.x - ctx.x_hat).detach(), strict=True):
        chosen = sorted(dead, key=lambda latent: float(pre[latent]), reverse=True)[:5]
        error_hat = torch.zeros_like(error)
        for latent in chosen:
            error_hat += max(float(pre[latent]), 0.0) * ctx.W_dec[latent].detach()
        unexplained.append(float((error - error_hat).pow(2).sum() / error.pow(2).sum()))
    power = float(ctx.x.pow(2).sum()) / len(ctx.x)
    expected = power * sum(unexplained) / len(unexplained)
    assert value(AuxK(k_aux=5), ctx).item() == pytest.approx(expected)


def test_auxk_teaches_dead_latents_only(ctx: StepContext) -> None:
    to_pre, to_dec = torch.autograd.grad(value(AuxK(k_aux=5), ctx), [ctx.pre_acts, ctx.W_dec])
    assert to_pre[:, ctx.dead].any()
    assert not to_pre[:, ~ctx.dead].any()
    assert not to_dec[~ctx.dead].any()


def test_auxk_is_zero_while_no_latent_is_dead(ctx: StepContext) -> None:
    silence = torch.zeros_like(ctx.tokens_since_fired)
    assert value(AuxK(), ctx.changed(tokens_since_fired=silence, any_dead=False)).item() == 0
    unknown = value(AuxK(), ctx.changed(tokens_since_fired=silence, any_dead=True))  # as without waiting for the device
    assert unknown.item() == 0
    (gradient,) = torch.autograd.grad(unknown, [ctx.W_dec])
    assert not gradient.any()


def test_statistics_are_computed_once_and_only_when_read() -> None:
    calls = []

    def compute() -> dict[str, Tensor]:
        calls.append("called")
        return {"share": torch.ones(())}

    statistics = WhenRead(compute)
    assert not calls
    assert statistics["share"] == 1
    assert list(statistics) == ["share"]
    assert calls == ["called"]


@pytest.mark.parametrize("wrong", [torch.ones(3), 1.0])
def test_statistics_of_another_shape_are_named_when_they_are_read(ctx: StepContext, wrong: Any) -> None:
    class Wrong(L1):
        name: str  # type: ignore[assignment]  # without a default, so that it is no member

        def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
            return Penalised(ctx.acts_sum.sum(), WhenRead(lambda: {"share": wrong}), state)

    penalty = Wrong(name="wrong", weight=1.0)
    answer = ask(penalty, ctx, {}, {"weight": 1.0})
    with pytest.raises(AnswerError, match="statistic share"):
        dict(answer.statistics)


@pytest.mark.parametrize("name", ["ortsae", "c2r", "random_pairs"])
def test_random_numbers_are_drawn_only_at_steps_that_need_them(name: str, ctx: StepContext) -> None:
    penalty = Penalty.parse({"name": name, "weight": 1.0})
    assert isinstance(penalty, Penalty)
    state = penalty.init_state(24, 40)
    for step in range(10):
        uniform = ctx.uniform if penalty.draws_at(step) else None
        state = penalty(ctx.changed(step=step, uniform=uniform), state, settings_at(penalty, step, 10)).state
    assert [penalty.draws_at(step) for step in range(6)] == [
        step % 5 == 0 or name == "random_pairs" for step in range(6)
    ]
