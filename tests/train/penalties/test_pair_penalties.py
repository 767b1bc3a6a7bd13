"""Penalties on pairs of latents: each formula against loops, and properties that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from saepipe.data.errors import ConfigError
from saepipe.train.pairs.search import top_pairs
from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext
from saepipe.train.schedule import settings_at

D_IN, D_SAE, BATCH = 24, 40, 17
LENIENT = {"min_firings": 0, "min_expected_joint": 0}
FORMS = {
    "suppression": {"name": "absorption", **LENIENT},
    "conditional": {"name": "absorption", "ratio": "conditional", "rho": 0.3, **LENIENT},
    "lift": {"name": "absorption", "ratio": "lift", "rho": 1.05, "min_firings": 0, "min_expected_joint": 2},
    "magnitude": {"name": "absorption", "ratio": "magnitude", "rho": 0.5, **LENIENT},
    "magnitude_lift": {"name": "absorption", "ratio": "magnitude_lift", "rho": 1.1, **LENIENT},
    "none": {"name": "absorption", "ratio": "none", **LENIENT},
    "balance": {"name": "balance", **LENIENT},
    "coactivation": {"name": "topk_orthogonality", "select": "coactivation"},
    "cosine": {"name": "topk_orthogonality", "select": "cosine", "tau": 0.2},
    "both": {"name": "topk_orthogonality", "select": "both", "fraction": 0.1},
    "all_pairs": {"name": "orthogonality"},
    "hinge": {"name": "orthogonality", "form": "hinge", "margin": 0.1},
    "ortsae": {"name": "ortsae", "chunk": 16},
    "c2r": {"name": "c2r", "chunk": 16},
    "c2r_squared": {"name": "c2r", "alpha": 2},
    "random_pairs": {"name": "random_pairs", "pairs_per_latent": 3},
}


def make(**settings: Any) -> Penalty:
    return Penalty.parse({"weight": 1.0, **settings})


def answer(penalty: Penalty, ctx: StepContext, state: State | None = None) -> Penalised:
    state = penalty.init_state(D_IN, D_SAE) if state is None else state
    return penalty(ctx, state, settings_at(penalty, ctx.step, ctx.num_steps))


@pytest.fixture(params=FORMS)
def penalty(request: pytest.FixtureRequest) -> Penalty:
    return make(**FORMS[request.param])


def test_gradients_are_finite_differences(penalty: Penalty, ctx: StepContext) -> None:
    leaves = {"W_dec": ctx.W_dec, "acts": ctx.acts} if penalty.name == "c2r" else {"W_dec": ctx.W_dec}
    gradients = torch.autograd.grad(answer(penalty, ctx).value, list(leaves.values()))
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        assert gradient.any()
        rng = torch.Generator().manual_seed(0)
        step = 1e-6 * torch.randn(leaf.shape, generator=rng, dtype=leaf.dtype)
        ahead, behind = (answer(penalty, ctx.changed(**{name: leaf + move})).value.item() for move in (step, -step))
        assert (ahead - behind) / 2 == pytest.approx(float((gradient * step).sum()), rel=1e-5), name


def test_a_weight_means_the_same_at_any_scale_of_x(penalty: Penalty, ctx: StepContext) -> None:
    scaled = {name: 7 * getattr(ctx, name) for name in ("x", "target", "acts", "acts_sum", "pre_acts", "x_hat")}
    bigger = answer(penalty, ctx.changed(**scaled)).value
    torch.testing.assert_close(bigger, 49 * answer(penalty, ctx).value, rtol=1e-5, atol=0)


def test_the_order_of_the_latents_does_not_matter(penalty: Penalty, ctx: StepContext) -> None:
    order = torch.randperm(D_SAE, generator=torch.Generator().manual_seed(5))
    moved = {name: getattr(ctx, name)[..., order] for name in ("pre_acts", "acts", "acts_sum", "uniform")}
    shuffled = answer(penalty, ctx.changed(**moved, W_dec=ctx.W_dec[order]))
    unchanged = answer(penalty, ctx)
    torch.testing.assert_close(shuffled.value, unchanged.value)
    for name in penalty.statistics:
        torch.testing.assert_close(shuffled.statistics[name], unchanged.statistics[name], msg=name)


def test_statistics_are_declared_and_in_range(penalty: Penalty, ctx: StepContext) -> None:
    result = answer(penalty, ctx).statistics
    assert result.keys() == penalty.statistics.keys()
    assert all(low <= float(result[name]) <= high for name, (low, high) in penalty.statistics.items())
    assert result["self_share"] == 0
    assert result["num_pairs"] > 0
    cosine = cosine_of(ctx).masked_fill(torch.eye(D_SAE, dtype=torch.bool), -1)
    if getattr(penalty, "chunk", D_SAE) >= D_SAE:
        assert float(result["max_cos_mean"]) == pytest.approx(float(cosine.amax(1).mean()))


def test_stacked_runs_train_like_single_runs(penalty: Penalty, ctx: StepContext) -> None:
    """Compares values, gradients and states of two runs under vmap, across a refresh."""
    alone = {name: getattr(ctx, name).detach() for name in ("x", "acts", "W_dec", "uniform")}
    tensors = {name: torch.stack([tensor, tensor.flip(0).roll(3, 0)]) for name, tensor in alone.items()}
    states = {name: torch.stack([tensor] * 2) for name, tensor in penalty.init_state(D_IN, D_SAE).items()}

    def value(W_dec: Tensor, rest: dict[str, Tensor], state: State) -> tuple[Tensor, State]:
        for step in (0, 1, 40):
            result = answer(penalty, ctx.changed(**rest, W_dec=W_dec, step=step, num_steps=50), state)
            state = result.state
        return result.value, state

    run = torch.func.grad_and_value(value, has_aux=True)
    W_dec = tensors.pop("W_dec")
    gradients, (values, after) = torch.func.vmap(run)(W_dec, tensors, states)
    for number in range(2):
        of_run = lambda tree, number=number: {name: tensor[number] for name, tensor in tree.items()}  # noqa: E731
        gradient, (result, state) = run(W_dec[number], of_run(tensors), of_run(states))
        torch.testing.assert_close(gradients[number], gradient)
        torch.testing.assert_close(values[number], result)
        torch.testing.assert_close(of_run(after), state)


def cosine_of(ctx: StepContext) -> Tensor:
    return (ctx.W_dec @ ctx.W_dec.T).detach()


def power_of(ctx: StepContext) -> float:
    return float(ctx.x.pow(2).sum()) / BATCH


def coactivation(ctx: StepContext) -> Callable[[tuple[int, int]], float]:
    acts = ctx.acts.detach()
    return lambda pair: float(acts[:, pair[0]] @ acts[:, pair[1]])


def largest(score: Callable[[tuple[int, int]], float], num: int) -> set[tuple[int, int]]:
    return set(sorted(combinations(range(D_SAE), 2), key=score, reverse=True)[:num])


def squares(ctx: StepContext, pairs: set[tuple[int, int]], margin: float = 0.0) -> float:
    cosine = cosine_of(ctx)
    return power_of(ctx) / D_SAE * sum(max(0.0, float(cosine[pair]) - margin) ** 2 for pair in pairs)


def test_topk_orthogonality_pair_by_pair(ctx: StepContext) -> None:
    cosine = cosine_of(ctx)
    active, near = largest(coactivation(ctx), 40), largest(lambda pair: float(cosine[pair]), 40)
    half_active, half_near = largest(coactivation(ctx), 39), largest(lambda pair: float(cosine[pair]), 39)
    assert half_active & half_near, "some pairs must be in both lists, since they count once"
    expected = {
        "coactivation": squares(ctx, active),
        "cosine": squares(ctx, near, 0.2),
        "both": squares(ctx, half_active | half_near),
    }
    for select, value in expected.items():
        assert answer(make(**FORMS[select]), ctx).value.item() == pytest.approx(value)


def test_the_number_of_pairs_follows_its_schedule(ctx: StepContext) -> None:
    """As in study B: from 5 % to 0.1 % of the pairs over the run."""
    schedule = {"start": 0.05, "end": 0.001}
    penalty = make(name="topk_orthogonality", fraction=schedule)
    cosine = cosine_of(ctx)
    state = penalty.init_state(D_IN, D_SAE)
    for step, num in ((0, 39), (9, 1)):
        result = answer(penalty, ctx.changed(step=step), state)
        state = result.state
        assert float(result.statistics["num_pairs"]) == num
        expected = squares(ctx, largest(lambda pair: float(cosine[pair]), num))
        assert result.value.item() == pytest.approx(expected)


def test_all_pairs_and_hinge_pair_by_pair(ctx: StepContext) -> None:
    cosine = cosine_of(ctx)
    everything = power_of(ctx) / D_SAE * sum(float(cosine[pair]) ** 2 for pair in combinations(range(D_SAE), 2))
    assert answer(make(name="orthogonality"), ctx).value.item() == pytest.approx(everything)
    near = {tuple(sorted((i, int(j)))) for i in range(D_SAE) for j in cosine[i].argsort(descending=True)[1:5]}
    assert answer(make(**FORMS["hinge"]), ctx).value.item() == pytest.approx(squares(ctx, near, 0.1))


@pytest.mark.parametrize("alpha", [None, 0.5, 1.0, 2.0])
def test_ortsae_and_c2r_latent_by_latent(alpha: float | None, ctx: StepContext) -> None:
    assert ctx.uniform is not None
    cosine, power = cosine_of(ctx), power_of(ctx)
    rms = [ctx.acts[:, i].pow(2).mean().sqrt().item() for i in range(D_SAE)]
    expected = 0.0
    for members in ctx.uniform.argsort().tensor_split(3):
        for i in members.tolist():
            j = max((j for j in members.tolist() if j != i), key=lambda j: float(cosine[i, j]))
            factor = power if alpha is None else power ** (1 - alpha / 2) * (rms[i] + rms[j]) ** alpha
            expected += factor / D_SAE * max(0.0, float(cosine[i, j])) ** 2
    penalty = make(name="ortsae", chunk=16) if alpha is None else make(name="c2r", chunk=16, alpha=alpha)
    assert answer(penalty, ctx).value.item() == pytest.approx(expected)


def test_neighbours_are_kept_between_searches(ctx: StepContext) -> None:
    """Steps in between use the pairs of the last search; the next search assigns new chunks."""
    penalty = make(name="ortsae", chunk=16, every=5)
    state = answer(penalty, ctx).state
    again = {step: answer(penalty, ctx.changed(step=step, uniform=1 - ctx.uniform.roll(7)), state) for step in (4, 5)}
    assert torch.equal(again[4].state["fellow"], state["fellow"])
    assert not torch.equal(again[5].state["fellow"], state["fellow"])
    assert again[4].value > 0


def test_the_placebo_samples_pairs_uniformly_and_each_once_per_step(ctx: StepContext) -> None:
    penalty = make(name="random_pairs", pairs_per_latent=3)
    rng = torch.Generator().manual_seed(6)
    counts = torch.zeros(D_SAE * D_SAE)
    for _ in range(400):
        keys = answer(penalty, ctx.changed(uniform=torch.rand(D_SAE, generator=rng))).state["chosen"]
        assert len(keys.unique()) == 3 * D_SAE
        counts[keys] += 1
    per_pair = counts.view(D_SAE, D_SAE)[tuple(torch.triu_indices(D_SAE, D_SAE, 1))]
    expected = 400 * 3 * D_SAE / len(per_pair)
    assert counts.view(D_SAE, D_SAE).tril().sum() == 0
    # (observed - expected)^2 / expected has mean 1 if all pairs are equally likely; its sd over 780 pairs is 0.05.
    assert float(((per_pair - expected) ** 2 / expected).mean()) == pytest.approx(1 - expected / 400, abs=0.25)


def planted(ctx: StepContext, firing: Tensor) -> StepContext:
    """Returns a step whose latents 0 and 1 have cosine 0.6 and the given activations; all others are far and silent."""
    W_dec = torch.eye(D_SAE, D_IN, dtype=ctx.x.dtype)
    W_dec[D_IN:] = -torch.eye(D_SAE - D_IN, D_IN, dtype=ctx.x.dtype)
    W_dec[1, :2] = torch.tensor([0.6, 0.8])
    acts = torch.zeros(len(firing), D_SAE, dtype=ctx.x.dtype)
    acts[:, :2] = firing
    x = torch.ones(len(firing), D_IN, dtype=ctx.x.dtype)
    return ctx.changed(acts=acts, acts_sum=acts.sum(0), W_dec=W_dec.requires_grad_(), x=x, target=x)


# 100 tokens: the parent is active on 40, the child on 20, both on 10.
FIRING = torch.zeros(100, 2)
FIRING[:30, 0], FIRING[30:40, 0], FIRING[30:50, 1] = 2.0, 1.0, 3.0
BY_HAND = {
    "conditional": 10 / 20,
    "lift": (10 + 5) / (100 * 0.4 * 0.2 + 5),
    "magnitude": 0.1 / 0.6,  # E[f_parent where the child is active] = 10 * 1 / 100; E[f_child] = 20 * 3 / 100
    "magnitude_lift": 0.3 / (0.7 * 0.6),  # E[f_parent f_child] = 10 * 1 * 3 / 100
    "suppression": 1 - (10 * 1.0 / 20) / (70.0 / 40),
    "none": 1.0,
}


@pytest.mark.parametrize("ratio", BY_HAND)
def test_each_ratio_by_hand(ratio: str, ctx: StepContext) -> None:
    """Also the weight: the ratio itself, or its excess over the threshold, 1 at twice the threshold."""
    step = planted(ctx, FIRING)
    expected = BY_HAND[ratio]
    threshold = {} if ratio in ("suppression", "none") else {"rho": 0.8 * expected}
    weight = 0.25 if threshold else expected
    penalty = make(name="absorption", ratio=ratio, min_firings=20, min_expected_joint=7.9, margin=0.1, **threshold)
    result = answer(penalty, step)
    assert float(result.statistics["ratio_in"]) == pytest.approx(expected, rel=1e-5)
    assert float(result.statistics["num_pairs"]) == 1
    assert result.value.item() == pytest.approx(D_IN / D_SAE * weight * 0.5**2, rel=1e-4)
    if threshold:
        twice = make(name="absorption", ratio=ratio, min_firings=20, min_expected_joint=7.9, rho=0.4 * expected)
        assert answer(twice, step).value.item() == pytest.approx(D_IN / D_SAE * 0.6**2, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "share"),
    [({}, 2), ({"min_firings": 21}, 1), ({"min_firings": 41}, 0), ({"min_firings": 0, "min_rate": 0.3}, 1)],
)
def test_latents_that_are_active_too_rarely_are_left_out(
    changes: dict[str, float], share: int, ctx: StepContext
) -> None:
    penalty = make(name="absorption", **{"min_firings": 20, "min_expected_joint": 7.9, **changes})
    result = answer(penalty, planted(ctx, FIRING))
    assert float(result.statistics["active_share"]) == pytest.approx(share / D_SAE)
    assert (result.value > 0) == (share == 2)


def test_a_fully_absorbed_pair_is_eligible_though_never_active_together(ctx: StepContext) -> None:
    """The 8 joint activations expected by chance decide; none is observed, and the weight is 1."""
    exclusive = FIRING.clone()
    exclusive[30:40, 0], exclusive[50:60, 0] = 0.0, 1.0
    step = planted(ctx, exclusive)
    result = answer(make(name="absorption", min_firings=20, min_expected_joint=7.9), step)
    assert float(result.statistics["ratio_in"]) == 1
    assert result.value.item() == pytest.approx(D_IN / D_SAE * 0.6**2)
    assert answer(make(name="absorption", min_firings=20, min_expected_joint=8.1), step).value == 0
    assert answer(make(name="absorption", min_firings=20, min_expected_joint=7.9, tau=0.61), step).value == 0


def test_a_clean_hierarchy_is_left_alone(ctx: StepContext) -> None:
    """The parent is active wherever the child is, and as strongly as elsewhere."""
    clean = FIRING.clone()
    clean[30:50, 0] = 2.0
    assert answer(make(name="absorption", min_firings=20, min_expected_joint=7.9), planted(ctx, clean)).value == 0


def test_a_window_fills_and_forgets(ctx: StepContext) -> None:
    """With 100 tokens per batch and a window of 400, the child, active on 20 per batch, has 50 after 4 batches."""
    penalty = make(name="absorption", window=400, min_expected_joint=0)
    first, state = planted(ctx, FIRING), penalty.init_state(D_IN, D_SAE)
    active = []
    for step in range(8):
        result = answer(penalty, first.changed(step=step, num_steps=20), state)
        state = result.state
        active.append(round(float(result.statistics["active_share"]) * D_SAE))
    firings = [400 * 0.2 * (1 - 0.75 ** (step + 1)) for step in range(8)]
    assert active == [1 + (count >= 50) if 2 * count >= 50 else 0 for count in firings]
    assert {1, 2} <= set(active)


def test_pairs_that_are_new_at_a_refresh_wait_for_evidence(ctx: StepContext) -> None:
    penalty = make(name="absorption", window=10_000, min_firings=20, min_expected_joint=15, refresh_every=2)
    near = planted(ctx, FIRING)
    far = near.changed(W_dec=near.W_dec.detach().roll(1, 0))
    state = answer(penalty, far.changed(step=0)).state
    for step, expected in ((1, False), (2, False), (3, True)):
        result = answer(penalty, (near if step > 1 else far).changed(step=step), state)
        state = result.state
        assert bool(result.value > 0) == expected, step


@pytest.mark.parametrize(
    ("parent_beside_child", "weight"),
    [
        (0.0, 1.0),  # fully absorbed
        (1.5, 0.5 + 1.2 * (1 - 1.5 * 40 / 90)),  # half: 20 tokens at 1.5 and 20 at 3, 90 / 40 on average
        (3.0, 0.5),  # a clean hierarchy
        (3.5, 0.5 + 1.2 * (1 - 3.5 * 40 / 130)),
        (9.0, 0.0),  # the parent carries the child
    ],
)
def test_balance_by_hand(parent_beside_child: float, weight: float, ctx: StepContext) -> None:
    """Parent on tokens 0 to 39, child on 20 to 39; latent 0 stays the parent, also where it is silent beside it."""
    firing = torch.zeros(100, 2)
    firing[:20, 0], firing[20:40, 0], firing[20:40, 1] = 3.0, parent_beside_child, 3.0
    if parent_beside_child == 0:
        firing[40:60, 0] = 3.0
    step = planted(ctx, firing)
    result = answer(make(name="balance", gain=1.2, min_firings=20, min_expected_joint=7.9), step)
    assert result.value.item() == pytest.approx(D_IN / D_SAE * weight * 0.6**2, rel=1e-5)
    assert float(result.statistics["released_share"]) == (weight == 0)
    kept = parent_beside_child * 40 / float(firing[:, 0].sum())
    assert float(result.statistics["kept"]) == pytest.approx(kept, rel=1e-5)


def test_balance_pushes_little_on_pairs_it_has_not_seen_often_enough(ctx: StepContext) -> None:
    far = {"min_firings": 20, "min_expected_joint": 8.1}
    step = planted(ctx, FIRING)
    assert answer(make(name="balance", **far), step).value.item() == pytest.approx(D_IN / D_SAE * 0.1 * 0.6**2)
    assert answer(make(name="balance", unjudged=0, **far), step).value == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": "conditional", "rho": 5}, "is a probability, at most 1. A rho between 0 and 1 would do, or ratio"),
        ({"ratio": "conditional", "rho": {"start": 0.5, "end": 10}}, "rho = 10 can never be exceeded"),
        ({"ratio": "conditional"}, "needs a threshold rho; 0.5 is a good start"),
        ({"ratio": "lift", "rho": 0}, "lets every pair pass"),
        ({"rho": 0.5}, "'suppression' is a weight and has no threshold: leave rho out"),
        ({"tau": 1.5}, "must be within"),
    ],
)
def test_absorption_refuses_unreachable_thresholds(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(name="absorption", **settings)


def test_absorption_doubts_a_tau_above_that_of_a_fully_absorbed_child() -> None:
    parent, child = torch.eye(2)
    absorbed = torch.nn.functional.normalize(parent + child, dim=0)
    assert not make(name="absorption", tau=float(absorbed @ parent) - 1e-3).doubts()
    (doubt,) = make(name="absorption", tau=0.8).doubts()
    assert "0.707" in doubt


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fraction": 0.1, "pairs_per_latent": 2}, "leave one out"),
        ({"pairs_per_latent": {"steer": "l0", "to": 5, "start": 1}}, "not a controller"),
        ({"fraction": 1.5}, "must be within"),
    ],
)
def test_topk_orthogonality_refuses_impossible_sizes(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(name="topk_orthogonality", **settings)


def test_a_config_records_the_default_size() -> None:
    written = make(name="topk_orthogonality").to_dict()
    assert (written["pairs_per_latent"], written["fraction"]) == (1.0, None)
    assert make(**written) == make(name="topk_orthogonality")
    assert make(name="topk_orthogonality", fraction=0.01).pairs_per_latent is None


def test_jaccard_and_survival_compare_two_refreshes(ctx: StepContext) -> None:
    penalty = make(name="topk_orthogonality", refresh_every=2)
    first = answer(penalty, ctx)
    assert float(first.statistics["jaccard"]) == 0, "nothing was chosen before"
    between = answer(penalty, ctx.changed(step=1), first.state)
    same = answer(penalty, ctx.changed(step=2), between.state)
    assert float(same.statistics["jaccard"]) == float(same.statistics["survival"]) == 1
    other = ctx.changed(step=4, W_dec=ctx.W_dec.detach().roll(1, 0))
    shared = len(set(chosen(ctx)) & set(chosen(other)))
    result = answer(penalty, other, same.state)
    assert float(result.statistics["jaccard"]) == pytest.approx(shared / (80 - shared))
    assert float(result.statistics["survival"]) == pytest.approx(shared / 40)


def chosen(ctx: StepContext) -> list[int]:
    return top_pairs(ctx.W_dec, D_SAE).keys.tolist()
