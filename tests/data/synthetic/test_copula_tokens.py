"""Tokens of a copula world, against a dense sampler that draws every feature of every token, and by closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.data.synthetic import CopulaWorld, SynthBench, draw_copula

NUM_TOKENS = 60_000
BENCH = SynthBench(num_features=120, d_in=16, num_roots=3, depth=2, zipf=1.2, rates=(0.5, 0.02), correlation_scale=0.15)


def tiny_world(**changes: Tensor) -> CopulaWorld:
    """Two roots; three children of the first, of which the first two exclude each other; one child of the second."""
    world = CopulaWorld(
        directions=normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), dim=1),
        bias=torch.arange(5.0),
        parent=torch.tensor([-1, 0, 0, 0, -1, 4]),
        group=torch.tensor([-1, 0, 0, -1, -1, -1]),
        scaled=torch.tensor([False, True, True, False, False, False]),
        threshold=-torch.special.ndtri(torch.tensor([0.5, 0.4, 0.3, 0.6, 0.2, 0.7])),
        loadings=torch.empty(6, 0),
        mean=torch.tensor([4.0, 2.0, 3.0, 1.0, 5.0, 2.0]),
        std=torch.tensor([1.0, 0.0, 0.0, 0.2, 0.5, 0.3]),
    )
    return replace(world, **changes)


def dense(world: CopulaWorld, num_tokens: int = NUM_TOKENS, seed: int = 0) -> Tensor:
    return draw_copula(world, seed, 0, num_tokens).on.dense(num_tokens, world.num_features)


def dense_reference(world: CopulaWorld, num_tokens: int) -> Tensor:
    """SAELens' algorithm: every feature of every token fires or not, then parents gate and siblings compete."""
    rng = torch.Generator().manual_seed(99)
    factors = torch.randn(num_tokens, world.loadings.shape[1], generator=rng)
    own = (1 - world.loadings.square().sum(1)).sqrt()
    score = factors @ world.loadings.T + own * torch.randn(num_tokens, world.num_features, generator=rng)
    normal = torch.randn(num_tokens, world.num_features, generator=rng)
    acts = (score > world.threshold) * (world.mean + world.std * normal).relu()
    for feature in range(world.num_features):  # parents come first
        parent = int(world.parent[feature])
        if parent >= 0:
            strength = acts[:, parent] / world.mean[parent] if world.scaled[feature] else (acts[:, parent] > 0).float()
            acts[:, feature] *= strength
        if feature + 1 == world.num_features or world.group[feature + 1] != world.group[feature]:
            members = (world.group == world.group[feature]).nonzero().squeeze(1)
            if world.group[feature] >= 0 and len(members) > 1:
                lots = torch.rand(num_tokens, len(members), generator=rng) * (acts[:, members] > 0)
                acts[:, members] *= lots == lots.amax(1, keepdim=True)
    return acts


def scores(ours: Tensor, theirs: Tensor) -> Tensor:
    """Standardised differences of column means."""
    variance = (ours.var(0) + theirs.var(0)) / len(ours)
    return ((ours.mean(0) - theirs.mean(0)) / variance.sqrt().clamp_min(1e-9)).abs()


def test_rates_magnitudes_and_pairs_are_those_of_dense_sampling() -> None:
    world = BENCH.world(0)
    ours, theirs = dense(world), dense_reference(world, NUM_TOKENS)
    assert scores((ours > 0).float(), (theirs > 0).float()).max() < 4.5
    assert scores(ours, theirs).max() < 4.5
    assert scores(ours.square(), theirs.square()).max() < 4.5
    frequent = (ours > 0).float().mean(0).topk(25).indices
    pairs = torch.triu_indices(25, 25, 1)
    products = [values[:, frequent][:, pairs[0]] * values[:, frequent][:, pairs[1]] for values in (ours, theirs)]
    assert scores(*((product > 0).float() for product in products)).max() < 4.5
    assert scores(*products).max() < 4.5


def test_rates_follow_from_gates_and_contests() -> None:
    """A contested feature of probability p stays with p (1 - q / 2): against its sibling it wins half of the time."""
    on = (dense(tiny_world()) > 0).double().mean(0)
    expected = torch.tensor([0.5, 0.5 * 0.4 * 0.85, 0.5 * 0.3 * 0.8, 0.5 * 0.6, 0.2, 0.2 * 0.7], dtype=torch.float64)
    assert ((on - expected).abs() <= 4.5 * (expected * (1 - expected) / NUM_TOKENS).sqrt()).all()


def test_children_are_on_only_with_their_parent_and_siblings_exclude_each_other() -> None:
    world = BENCH.world(0)
    on = dense(world, 5000) > 0
    child = world.parent >= 0
    assert not (on[:, child] & ~on[:, world.parent[child]]).any()
    parents = torch.unique(world.parent[child])
    counts = torch.stack([on[:, world.parent == parent].sum(1) for parent in parents])
    assert counts.max() == 1
    assert on[:, ~child].sum(1).max() > 2  # roots exclude nothing


def test_roots_may_exclude_each_other_too() -> None:
    world = tiny_world(group=torch.tensor([0, 1, 1, -1, 0, -1]))
    on = dense(world) > 0
    assert not (on[:, 0] & on[:, 4]).any()
    assert on[:, 0].float().mean() == pytest.approx(0.5 * (1 - 0.2 / 2), abs=0.01)


def test_children_are_as_strong_as_their_parent_where_they_are_scaled() -> None:
    magnitudes = dense(tiny_world(), 5000)
    for child, mean in ((1, 2.0), (2, 3.0)):
        on = magnitudes[:, child] > 0
        torch.testing.assert_close(magnitudes[on, child], mean * magnitudes[on, 0] / 4.0)
    plain = magnitudes[magnitudes[:, 3] > 0, 3]
    assert plain.std() == pytest.approx(0.2, rel=0.1)


def test_a_magnitude_of_zero_is_off_and_competes_for_nothing() -> None:
    off = torch.tensor([4.0, -9.0, 3.0, 1.0, 5.0, 2.0])
    tokens = draw_copula(tiny_world(mean=off), 0, 0, NUM_TOKENS)
    assert tokens.on.magnitude.min() > 0
    on = (tokens.on.dense(NUM_TOKENS, 6) > 0).float().mean(0)
    assert on[1] == 0
    assert on[2] == pytest.approx(0.5 * 0.3, abs=0.01)


def test_features_with_similar_loadings_are_on_together() -> None:
    loadings = torch.zeros(6, 1)
    loadings[0], loadings[4] = 0.9, 0.9
    on = dense(tiny_world(loadings=loadings)) > 0
    together = (on[:, 0] & on[:, 4]).float().mean()
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    density = torch.exp(-grid.square() / 2) / (2 * torch.pi) ** 0.5
    given = [torch.special.ndtr((0.9 * grid + torch.special.ndtri(torch.tensor(p))) / 0.19**0.5) for p in (0.5, 0.2)]
    assert together == pytest.approx(float(torch.trapezoid(density * given[0] * given[1], grid)), abs=0.008)


def test_activations_are_the_sum_of_what_is_on() -> None:
    world = tiny_world()
    tokens = draw_copula(world, 0, 0, 300)
    torch.testing.assert_close(tokens.x, tokens.on.dense(300, 6) @ world.directions + world.bias)
    assert torch.equal(tokens.on.token, tokens.on.token.sort().values)
    nothing = tiny_world(threshold=torch.full((6,), torch.inf))
    assert torch.equal(draw_copula(nothing, 0, 0, 3).x, world.bias.expand(3, 5))


def test_batches_split_into_smaller_ones() -> None:
    world = tiny_world()
    tokens = draw_copula(world, 0, 0, 250)
    parts = tokens.split(100)
    assert [len(part.x) for part in parts] == [100, 100, 50]
    assert torch.equal(torch.cat([part.x for part in parts]), tokens.x)
    dense_parts = [part.on.dense(len(part.x), 6) for part in parts]
    assert torch.equal(torch.cat(dense_parts), tokens.on.dense(250, 6))
    assert torch.equal(parts[1].on_mask(6), dense_parts[1] > 0)


def test_a_batch_is_a_pure_function_of_seed_and_number() -> None:
    world = tiny_world()
    first = draw_copula(world, 5, 1_000_000, 100)
    assert torch.equal(first.x, draw_copula(world, 5, 1_000_000, 100).x)
    assert not torch.equal(first.x, draw_copula(world, 5, 1_000_001, 100).x)
    assert not torch.equal(first.x, draw_copula(world, 6, 1_000_000, 100).x)


def test_all_tensors_of_a_world_move_to_a_device() -> None:
    moved = tiny_world().to(torch.device("meta"))
    assert all(value.is_meta for value in vars(moved).values())
