"""Formulas of the sparsity penalties, each against a loop or against the paper's gradient estimate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from saepipe.data.errors import ConfigError
from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext
from saepipe.train.penalties.l0 import L0
from saepipe.train.penalties.log import Log
from saepipe.train.penalties.lp import Lp
from saepipe.train.penalties.preact import PreAct
from saepipe.train.penalties.rate_floor import RateFloor
from saepipe.train.penalties.tanh import Tanh
from saepipe.train.sae.base import Architecture
from saepipe.train.sae.dense_acts import DenseActs
from saepipe.train.schedule import Schedule, settings_at

pytestmark = pytest.mark.quick

THRESHOLD = torch.linspace(0.0, 0.9, 40, dtype=torch.float64)


def answer(penalty: Penalty, ctx: StepContext, state: State | None = None, step: int = 0) -> Penalised:
    state = penalty.init_state(24, 40) if state is None else state
    return penalty(ctx.changed(step=step), state, settings_at(penalty, step, 10))


def per_token(acts: Tensor, function: object) -> float:
    """Computes E_b sum_i function(acts_i), in a loop."""
    assert callable(function)
    return sum(function(value) for row in acts.tolist() for value in row) / len(acts)


@pytest.mark.parametrize(
    ("penalty", "function"),
    [
        (Lp(weight=1, p=0.5, eps=0.01), lambda a: a / math.sqrt(a + 0.01)),
        (Lp(weight=1, p=1), lambda a: a),
        (Tanh(weight=1, c=4), lambda a: math.tanh(4 * a)),
        (Log(weight=1, eps=0.2), lambda a: math.log(1 + a / 0.2)),
    ],
)
def test_the_value_sums_a_function_of_each_activation(penalty: Penalty, function: object, ctx: StepContext) -> None:
    assert answer(penalty, ctx).value.item() == pytest.approx(per_token(ctx.gate_acts, function))


def test_the_gradient_reaches_the_gate_of_a_gated_sae(ctx: StepContext) -> None:
    gated = ctx.changed(gate_acts=(3 * ctx.acts).detach().requires_grad_())
    for penalty in (Lp(weight=1), Tanh(weight=1), Log(weight=1)):
        value = answer(penalty, gated).value
        to_gate, to_acts = torch.autograd.grad(value, [gated.gate_acts, gated.acts], allow_unused=True)
        assert to_gate.any()
        assert to_acts is None


def test_lp_goes_from_l1_towards_l0(ctx: StepContext) -> None:
    schedule = Schedule(start=1.0, end=0.01)
    values = [answer(Lp(weight=1, p=schedule, eps=1e-9), ctx, step=step).value.item() for step in range(10)]
    assert values[0] == pytest.approx(ctx.acts.sum().item() / len(ctx.x))
    active = (ctx.acts > 0).sum().item() / len(ctx.x)
    assert values[-1] == pytest.approx(active, rel=0.05)
    zeros = torch.zeros_like(ctx.acts).requires_grad_()
    value = answer(Lp(weight=1, p=0.5, eps=0.04), ctx.changed(gate_acts=zeros)).value
    assert value.item() == 0
    torch.testing.assert_close(torch.autograd.grad(value, zeros)[0], torch.full_like(zeros, 5 / len(ctx.x)))


@pytest.mark.parametrize("p", [0.0, 1.5, {"start": 1.0, "end": 0.0}])
def test_lp_accepts_powers_above_0_and_up_to_1_only(p: object) -> None:
    with pytest.raises(ConfigError, match="must be within"):
        Lp.parse({"weight": 1, "p": p})


def test_l0_has_the_papers_gradient_estimate(ctx: StepContext) -> None:
    """Only learned thresholds get a gradient: -(1 / bandwidth) 1[|z - t| < bandwidth / 2] / batch."""
    threshold = THRESHOLD.clone().requires_grad_()
    result = answer(L0(weight=1, bandwidth=0.4), ctx.changed(threshold=threshold))
    expected, active = [0.0] * 40, 0
    for row in ctx.pre_acts.tolist():
        for i, (z, t) in enumerate(zip(row, THRESHOLD.tolist(), strict=True)):
            active += z > t
            expected[i] -= (abs(z - t) < 0.2) / 0.4 / len(ctx.x)
    assert result.value.item() == pytest.approx(active / len(ctx.x))
    assert result.statistics["l0"].item() == pytest.approx(active / len(ctx.x))
    to_threshold, to_pre = torch.autograd.grad(result.value, [threshold, ctx.pre_acts], allow_unused=True)
    assert to_threshold.tolist() == pytest.approx(expected)
    assert to_pre is None or not to_pre.any()


def test_l0_with_a_fixed_threshold_reaches_the_pre_activations(ctx: StepContext) -> None:
    result = answer(L0(weight=1, bandwidth=0.4, threshold=0.3), ctx)
    assert result.value.item() == pytest.approx((ctx.pre_acts > 0.3).sum().item() / len(ctx.x))
    (to_pre,) = torch.autograd.grad(result.value, [ctx.pre_acts])
    inside = (ctx.pre_acts - 0.3).abs() < 0.2
    torch.testing.assert_close(to_pre, inside.double() / 0.4 / len(ctx.x))
    assert result.statistics["near_share"].item() == pytest.approx(inside.double().mean().item())


def test_the_estimate_is_the_slope_of_the_expected_l0() -> None:
    """For a smooth density the estimate is the derivative of the expected L0: here of P(z > t), z normal."""
    z = torch.randn(400_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    threshold = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    sae = Architecture.parse({"name": "jumprelu", "d_sae": 1})
    assert isinstance(sae, Architecture)
    unused = torch.zeros(1, 1, dtype=torch.float64)
    acts = sae.activate({"threshold": threshold}, z)
    ctx = StepContext(
        x=z, target=z, latent_acts=DenseActs(pre_acts=z, acts=acts, acts_sum=z.sum(0), gate_acts=z), x_hat=z,
        weights={"W_enc": unused, "b_enc": unused[0], "W_dec": unused, "b_dec": unused[0]}, threshold=threshold,
        tokens_since_fired=torch.zeros(1, dtype=torch.int64), dead_after=1, any_dead=False, step=0, num_steps=10,
        uniform=None,
    )  # fmt: skip
    (slope,) = torch.autograd.grad(answer(L0(weight=1, bandwidth=0.2), ctx).value, threshold)
    density = math.exp(-(0.7**2) / 2) / math.sqrt(2 * math.pi)
    assert slope.item() == pytest.approx(-density, rel=0.02)


@pytest.mark.parametrize("name", ["topk", "batch_topk", "matryoshka_batch_topk"])
def test_l0_refuses_architectures_with_a_fixed_l0(name: str) -> None:
    fixed, free = (
        Architecture.parse({"name": name, "d_sae": 40, **({"k": 6} if name != "jumprelu" else {})})
        for name in (name, "jumprelu")
    )
    assert isinstance(fixed, Architecture)
    assert isinstance(free, Architecture)
    assert "keeps k = 6 latents" in (L0(weight=1).refuses(fixed) or "")
    assert L0(weight=1).refuses(free) is None


def test_preact_by_a_loop(ctx: StepContext) -> None:
    threshold = THRESHOLD.clone().requires_grad_()
    result = answer(PreAct(weight=1), ctx.changed(threshold=threshold))
    missed = [max(t - z, 0.0) for row in ctx.pre_acts.tolist() for z, t in zip(row, THRESHOLD.tolist(), strict=True)]
    assert result.value.item() == pytest.approx(sum(missed) / len(ctx.x))
    assert result.statistics["off_share"].item() == pytest.approx(sum(m > 0 for m in missed) / len(missed))
    to_pre, to_threshold = torch.autograd.grad(result.value, [ctx.pre_acts, threshold])
    off = (ctx.pre_acts < THRESHOLD).double() / len(ctx.x)
    torch.testing.assert_close(to_pre, -off)
    torch.testing.assert_close(to_threshold, off.sum(0))
    assert answer(PreAct(weight=1), ctx).value.item() == pytest.approx((-ctx.pre_acts).relu().sum().item() / len(ctx.x))


def with_acts(ctx: StepContext, acts: Tensor) -> StepContext:
    return ctx.changed(acts=acts, gate_acts=acts)


def test_rates_are_a_mean_over_steps_without_initial_bias(ctx: StepContext) -> None:
    penalty, rng = RateFloor(weight=1, decay=0.7), torch.Generator().manual_seed(0)
    state, batches = penalty.init_state(24, 40), []
    for step in range(5):
        acts = (torch.rand(17, 40, generator=rng) - 0.8).relu().double()
        batches.append((acts > 0).double().mean(0))
        state = dict(answer(penalty, with_acts(ctx, acts), state, step).state)
    weights = torch.tensor([0.7**age for age in (4, 3, 2, 1, 0)], dtype=torch.float64)
    expected = sum(w * batch for w, batch in zip(weights / weights.sum(), batches, strict=True))
    torch.testing.assert_close((state["rate"] / state["seen"]).double(), expected, rtol=1e-5, atol=1e-6)


def test_log_floor_by_a_loop(ctx: StepContext) -> None:
    rates = (ctx.gate_acts > 0).double().mean(0).tolist()
    result = answer(RateFloor(weight=1, p_min=0.5), ctx)
    expected = [max(math.log(0.55 / (rate + 0.05)), 0.0) for rate in rates]
    assert result.value.item() == pytest.approx(sum(expected) / 40, rel=1e-5)
    assert result.statistics["below"].item() == pytest.approx(sum(rate < 0.5 for rate in rates) / 40)


def test_only_latents_below_the_floor_get_a_gradient(ctx: StepContext) -> None:
    (to_pre,) = torch.autograd.grad(answer(RateFloor(weight=1, p_min=0.5, bandwidth=2), ctx).value, [ctx.pre_acts])
    rates = (ctx.gate_acts > 0).double().mean(0)
    below = rates < 0.5
    assert not to_pre[:, ~below].any()
    s = (ctx.pre_acts / 2).sigmoid()
    expected = -(s * (1 - s) / 2 / len(ctx.x)) / (rates + 0.05) / 40
    torch.testing.assert_close(to_pre[:, below], expected[:, below], rtol=1e-5, atol=0.0)


def test_the_value_is_zero_if_all_latents_are_above_the_floor(ctx: StepContext) -> None:
    everywhere = with_acts(ctx, torch.ones_like(ctx.acts))
    assert answer(RateFloor(weight=1, p_min=0.9), everywhere).value.item() == 0
    even = answer(RateFloor(weight=1, form="entropy"), everywhere)
    assert even.value.item() == pytest.approx(0, abs=1e-6)
    assert even.statistics["entropy"].item() == pytest.approx(1)


def test_entropy_by_a_loop(ctx: StepContext) -> None:
    rates = (ctx.gate_acts > 0).double().mean(0).tolist()
    soft = [rate + 1e-5 for rate in rates]
    q = [rate / sum(soft) for rate in soft]
    result = answer(RateFloor(weight=1, form="entropy"), ctx)
    entropy = -sum(share * math.log(share) for share in q if share)
    assert result.value.item() == pytest.approx(math.log(40) - entropy, rel=1e-5)
    assert result.statistics["entropy"].item() == pytest.approx(entropy / math.log(40), rel=1e-5)
    (to_pre,) = torch.autograd.grad(result.value, [ctx.pre_acts])
    rarest, commonest = min(range(40), key=rates.__getitem__), max(range(40), key=rates.__getitem__)
    assert (to_pre[:, rarest] < 0).all()
    assert (to_pre[:, commonest] > 0).all()


def test_a_silent_dictionary_has_finite_gradients(ctx: StepContext) -> None:
    silent = with_acts(ctx, torch.zeros_like(ctx.acts))
    for form in ("log_floor", "entropy"):
        value = answer(RateFloor.parse({"weight": 1, "form": form}), silent).value
        (to_pre,) = torch.autograd.grad(value, [ctx.pre_acts])
        assert value.isfinite()
        assert to_pre.isfinite().all()
        assert (to_pre < 0).all().item() == (form == "log_floor")  # equal densities have the largest entropy already
