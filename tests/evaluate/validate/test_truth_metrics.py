"""The metrics of dictionaries constructed by hand, on worlds for which the right values are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.data.synthetic import Tokens, Truth, World, draw
from saepipe.evaluate.validate.truth_metrics import TruthMetrics, f1_scores, measure, recovery

NUM_TOKENS = 4000


@pytest.fixture(params=[0.0, 0.6], ids=["near-orthogonal", "overlapping"])
def world(request: pytest.FixtureRequest) -> tuple[Truth, Tokens]:
    truth = World(child_cosine=request.param, noise=0.0).truth(0)
    return truth, draw(truth, seed=0, number=0, num_tokens=NUM_TOKENS)


def metrics_of(truth: Truth, tokens: Tokens, acts: Tensor, W_dec: Tensor) -> TruthMetrics:
    return measure(truth, tokens, acts, W_dec, acts @ W_dec)


def merged(truth: Truth, tokens: Tokens, share: float) -> tuple[Tensor, Tensor]:
    """Returns a dictionary whose child latents carry `share` of the parent: u_c + share u_p; the parent has the rest.

    The reconstruction stays exact where parent and child are equally strong.
    """
    acts, W_dec = tokens.magnitudes.clone(), truth.directions.clone()
    child = truth.parent >= 0
    parent = truth.parent[child]
    mixed = truth.directions[child] + share * truth.directions[parent]
    lengths = mixed.norm(dim=1)
    W_dec[child] = mixed / lengths.unsqueeze(1)
    acts[:, child] *= lengths
    strength = tokens.magnitudes[:, child]
    acts.index_add_(1, parent, -share * strength)
    return acts.clamp_min(0), W_dec


def equal_strength(truth: Truth, tokens: Tokens) -> Tokens:
    """Returns the same tokens with every magnitude 1, so that merging is exact."""
    magnitudes = (tokens.magnitudes > 0).float()
    return Tokens(magnitudes @ truth.directions, magnitudes)


def test_the_true_dictionary_is_perfect(world: tuple[Truth, Tokens]) -> None:
    truth, tokens = world
    metrics = metrics_of(truth, tokens, tokens.magnitudes, truth.directions)
    assert metrics.mcc == pytest.approx(1)
    assert metrics.f1 == pytest.approx(1)
    assert metrics.f1_parents == pytest.approx(1)
    assert metrics.l0 == pytest.approx(float((tokens.magnitudes > 0).sum(1).float().mean()))
    assert metrics.absorbed == 0
    assert metrics.absorbed_half == 0
    for value in (metrics.fvu, metrics.absorbed_fraction, metrics.leak, metrics.hedging, metrics.dead):
        assert value == pytest.approx(0, abs=1e-4)
    assert metrics.splitting == 1


def test_surplus_latents_change_only_the_dead_share(world: tuple[Truth, Tokens]) -> None:
    truth, tokens = world
    rng = torch.Generator().manual_seed(0)
    spare = normalize(torch.randn(16, truth.d_in, generator=rng), dim=1)
    order = torch.randperm(80, generator=rng)
    acts = torch.cat([tokens.magnitudes, torch.zeros(NUM_TOKENS, 16)], dim=1)[:, order]
    metrics = metrics_of(truth, tokens, acts, torch.cat([truth.directions, spare])[order])
    assert metrics.mcc == pytest.approx(1)
    assert metrics.absorbed == 0
    assert metrics.dead == pytest.approx(16 / 80)


def test_full_absorption_is_measured_as_1(world: tuple[Truth, Tokens]) -> None:
    truth, tokens = world
    tokens = equal_strength(truth, tokens)
    metrics = metrics_of(truth, tokens, *merged(truth, tokens, 1.0))
    assert metrics.fvu == pytest.approx(0, abs=1e-6)  # the reconstruction does not reveal it
    assert metrics.absorbed == pytest.approx(1)
    assert metrics.absorbed_half == pytest.approx(1)
    assert metrics.absorbed_fraction == pytest.approx(1)
    child = truth.parent >= 0
    mixed = truth.directions[child] + truth.directions[truth.parent[child]]
    assert metrics.leak == pytest.approx(float((1 / mixed.norm(dim=1)).mean()), rel=1e-4)
    assert metrics.mcc < 0.96


@pytest.mark.parametrize(("share", "half"), [(0.3, 0.0), (0.45, 0.0), (0.7, 1.0)])
def test_partial_absorption_is_measured_as_its_share(world: tuple[Truth, Tokens], share: float, half: float) -> None:
    truth, tokens = world
    tokens = equal_strength(truth, tokens)
    metrics = metrics_of(truth, tokens, *merged(truth, tokens, share))
    assert metrics.absorbed == 0  # the parent's latent is still active
    assert metrics.absorbed_half == pytest.approx(half)
    assert metrics.absorbed_fraction == pytest.approx(share, abs=1e-4)


def test_a_silent_parent_that_no_latent_carries_is_not_absorbed(world: tuple[Truth, Tokens]) -> None:
    truth, tokens = world
    acts, parent = tokens.magnitudes.clone(), 0
    acts[(tokens.magnitudes[:, truth.children(parent)] > 0).any(1), parent] = 0
    metrics = metrics_of(truth, tokens, acts, truth.directions)
    assert metrics.absorbed == 0
    assert metrics.absorbed_fraction < 0.01
    assert metrics.f1_parents < 0.99
    assert metrics.fvu > 0.01


def test_only_absorbed_families_count() -> None:
    truth = World(noise=0.0).truth(0)
    tokens = equal_strength(truth, draw(truth, seed=0, number=0, num_tokens=NUM_TOKENS))
    acts, W_dec = merged(truth, tokens, 1.0)
    kept = torch.isin(truth.parent, truth.parents[:6])
    acts[:, kept], W_dec[kept] = tokens.magnitudes[:, kept], truth.directions[kept]
    acts[:, truth.parents[:6]] = tokens.magnitudes[:, truth.parents[:6]]
    assert metrics_of(truth, tokens, acts, W_dec).absorbed == pytest.approx(0.5)


def test_hedging_is_the_child_direction_in_the_parents_latent() -> None:
    truth = World(noise=0.0).truth(0)
    tokens = draw(truth, seed=0, number=0, num_tokens=NUM_TOKENS)
    W_dec = truth.directions.clone()
    summed = torch.zeros_like(W_dec).index_add_(0, truth.parent.clamp_min(0), W_dec * (truth.parent >= 0).unsqueeze(1))
    parents = truth.parents
    mixed = truth.directions[parents] + 0.2 * summed[parents]
    W_dec[parents] = normalize(mixed, dim=1)
    metrics = metrics_of(truth, tokens, tokens.magnitudes, W_dec)
    assert metrics.hedging == pytest.approx(float((0.2 / mixed.norm(dim=1)).mean()), rel=1e-4)


def test_a_split_parent_counts_twice() -> None:
    truth = World(noise=0.0).truth(0)
    tokens = draw(truth, seed=0, number=0, num_tokens=NUM_TOKENS)
    even = (torch.arange(NUM_TOKENS) % 2 == 0).unsqueeze(1)
    twins = tokens.magnitudes[:, truth.parents]
    acts = torch.cat([tokens.magnitudes, twins * even], dim=1)
    acts[:, truth.parents] = twins * ~even
    metrics = metrics_of(truth, tokens, acts, torch.cat([truth.directions, truth.directions[truth.parents]]))
    assert metrics.splitting == 2
    assert metrics.mcc == pytest.approx(1)


def test_a_world_without_families_absorbs_nothing() -> None:
    truth = World(num_parents=0, noise=0.0).truth(0)
    tokens = draw(truth, seed=0, number=0, num_tokens=NUM_TOKENS)
    metrics = metrics_of(truth, tokens, tokens.magnitudes, truth.directions)
    assert metrics.absorbed == metrics.leak == metrics.f1_parents == 0
    assert metrics.mcc == pytest.approx(1)


def test_recovery_pairs_each_latent_once() -> None:
    directions = torch.eye(3)
    W_dec = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    assert recovery(W_dec, directions) == pytest.approx(2 / 3)  # two latents for one feature, none for the second


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    active = torch.tensor([[1.0], [1.0], [1.0], [0.0]])
    on = torch.tensor([[1.0], [1.0], [0.0], [1.0]])
    precision, recall = 2 / 3, 2 / 3
    assert f1_scores(active, on).item() == pytest.approx(2 * precision * recall / (precision + recall))
