"""What every penalty keeps to, member by member; and the formula of each."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from saepipe.data.component import import_members
from saepipe.train.penalties.auxk import AuxK
from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext
from saepipe.train.penalties.l1 import L1
from saepipe.train.setting import controllers, settings_at

import_members(Penalty.package)

REACHED = ("pre_acts", "acts", "acts_sum", "gate_acts", "x_hat", "W_enc", "b_enc", "W_dec", "b_dec")


REQUIRED = {"l0_target": {"l0": 5.0}, "absorption": {"min_firings": 0, "min_expected_joint": 0}}
"""Settings without a default, or without which one batch is not enough, by penalty."""


ESTIMATED = {"l0": {"pre_acts"}, "rate_floor": {"pre_acts"}}
"""Where a gradient is an estimate on purpose, by penalty; test_sparsity_penalties.py holds it to its formula."""


@pytest.fixture(params=sorted(Penalty.members))
def penalty(request: pytest.FixtureRequest) -> Penalty:
    made = Penalty.members[request.param].parse({"weight": 0.5, **REQUIRED.get(request.param, {})})
    assert isinstance(made, Penalty)
    return made


def answer(penalty: Penalty, ctx: StepContext, state: State | None = None) -> Penalised:
    """At the first step of ten; controllers stand at 0.5."""
    steered = {name: torch.tensor(0.5).log() for name in controllers(penalty)}
    return penalty(ctx, penalty.init_state(24, 40) if state is None else state, settings_at(penalty, 0, 10, steered))


def value(penalty: Penalty, ctx: StepContext) -> Tensor:
    return answer(penalty, ctx).value


def test_gradients_are_finite_differences(penalty: Penalty, ctx: StepContext) -> None:
    """Wherever a penalty lets a gradient through, it is the slope; and somewhere it does."""
    leaves = [getattr(ctx, name) for name in REACHED]
    gradients = torch.autograd.grad(value(penalty, ctx), leaves, allow_unused=True)
    reached = {name: g for name, g in zip(REACHED, gradients, strict=True) if g is not None}
    assert any(gradient.any() for gradient in reached.values())
    rng = torch.Generator().manual_seed(0)
    for name, gradient in reached.items():
        if name in ESTIMATED.get(penalty.name, ()):
            continue
        leaf = getattr(ctx, name).detach()
        direction = torch.randn(leaf.shape, generator=rng, dtype=leaf.dtype)
        step = 1e-6 * direction
        ahead = value(penalty, replace(ctx, **{name: leaf + step})).item()
        behind = value(penalty, replace(ctx, **{name: leaf - step})).item()
        assert (ahead - behind) / 2e-6 == pytest.approx(float((gradient * direction).sum()), rel=1e-5, abs=1e-8), name


def test_the_value_does_not_depend_on_the_batch_size(penalty: Penalty, ctx: StepContext) -> None:
    twice = {name: torch.cat([getattr(ctx, name)] * 2) for name in ("x", "pre_acts", "acts", "gate_acts", "x_hat")}
    doubled = replace(ctx, **twice, acts_sum=2 * ctx.acts_sum)
    torch.testing.assert_close(value(penalty, doubled), value(penalty, ctx))


def test_a_step_is_pure(penalty: Penalty, ctx: StepContext) -> None:
    before = {field.name: getattr(ctx, field.name) for field in fields(ctx)}
    copies = {name: item.detach().clone() for name, item in before.items() if isinstance(item, Tensor)}
    state = penalty.init_state(24, 40)
    first, second = answer(penalty, ctx, state), answer(penalty, ctx, state)
    assert torch.equal(first.value, second.value)
    assert all(torch.equal(copy, getattr(ctx, name)) for name, copy in copies.items())
    assert {name: (t.shape, t.dtype) for name, t in first.state.items()} == {
        name: (t.shape, t.dtype) for name, t in state.items()
    }


def test_value_and_statistics_are_scalars(penalty: Penalty, ctx: StepContext) -> None:
    found = answer(penalty, ctx)
    assert found.value.shape == ()
    assert found.value >= 0
    assert all(tensor.shape == () and not tensor.requires_grad for tensor in found.statistics.values())


def test_statistics_are_those_declared_and_in_their_ranges(penalty: Penalty, ctx: StepContext) -> None:
    found = answer(penalty, ctx).statistics
    assert found.keys() == penalty.statistics.keys()
    for name, (low, high) in penalty.statistics.items():
        assert low <= float(found[name]) <= high, name


def test_stacked_is_alone(penalty: Penalty, ctx: StepContext) -> None:
    """Two steps of two runs under vmap: what a stack of runs relies on."""
    reached = {name: getattr(ctx, name).detach() for name in (*REACHED, "x", "uniform")}
    pairs = {name: torch.stack([tensor, tensor.flip(0)]) for name, tensor in reached.items()}
    pairs["acts_sum"] = pairs["acts"].sum(1)
    pairs["W_dec"] = torch.nn.functional.normalize(pairs["W_dec"], dim=2)

    def twice(tensors: dict[str, Tensor]) -> Tensor:
        here = replace(ctx, **tensors)
        return answer(penalty, replace(here, step=1), answer(penalty, here).state).value

    stacked = torch.func.vmap(twice)(pairs)
    for run in range(2):
        torch.testing.assert_close(stacked[run], twice({name: tensor[run] for name, tensor in pairs.items()}))


def test_l1_is_the_mean_sum_of_activations(ctx: StepContext) -> None:
    expected = sum(sum(row) for row in ctx.acts.tolist()) / len(ctx.acts)
    assert value(L1(weight=1), ctx).item() == pytest.approx(expected)


def test_auxk_token_by_token(ctx: StepContext) -> None:
    """The paper's definition in loops: the k_aux largest of the dead latents rebuild the residual."""
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
    nobody = torch.zeros_like(ctx.dead)
    assert value(AuxK(), replace(ctx, dead=nobody, any_dead=False)).item() == 0
    unknown = value(AuxK(), replace(ctx, dead=nobody, any_dead=True))  # as on a device that is not asked
    assert unknown.item() == 0
    (gradient,) = torch.autograd.grad(unknown, [ctx.W_dec])
    assert not gradient.any()
