"""Synthetic worlds: their directions, frequencies, exclusions and streams, against counts on sampled tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saepipe.data.errors import ConfigError
from saepipe.data.synthetic import Truth, World, draw

NUM_TOKENS = 40_000


def counted(truth: Truth, num_tokens: int = NUM_TOKENS) -> Tensor:
    return draw(truth, seed=1, number=0, num_tokens=num_tokens).magnitudes > 0


def largest_cosines(directions: Tensor) -> Tensor:
    """(num_features,) largest |cosine| with another feature."""
    return (directions @ directions.T).abs().fill_diagonal_(0).amax(1)


def test_the_default_is_the_reference_world() -> None:
    truth = World().truth(0)
    assert truth.directions.shape == (64, 40)
    torch.testing.assert_close(truth.directions.norm(dim=1), torch.ones(64))
    assert largest_cosines(truth.directions).max() <= 0.131
    # 12 parents, log-spaced, each with one of three children in 0.6 of its tokens; 16 flat features.
    parents = [0.24 * 0.25 ** (i / 11) for i in range(12)]
    expected = sum(parents) * 1.6 + sum(0.12 * k**-0.6 for k in range(1, 17))
    assert truth.l0 == pytest.approx(expected)
    assert truth.l0 == pytest.approx(3.21, abs=0.01)


@pytest.mark.parametrize(
    "world",
    [
        World(),
        World(num_rare_children=1, child_rate=0.3),
        World(num_correlated=8, num_sibling_sets=3, num_parents=4),
        World(num_children=0),
    ],
)
def test_features_are_on_as_often_as_their_frequencies_say(world: World) -> None:
    truth = world.truth(0)
    on = counted(truth)
    error = (truth.frequencies * (1 - truth.frequencies) / NUM_TOKENS).sqrt()
    assert ((on.double().mean(0) - truth.frequencies).abs() <= 5 * error).all()


def test_children_imply_their_parent_and_exclude_each_other() -> None:
    truth = World().truth(0)
    on = counted(truth)
    assert len(truth.parents) == 12
    for parent in truth.parents.tolist():
        children = on[:, truth.children(parent)]
        assert children.shape[1] == 3
        assert children.sum(1).max() == 1
        assert on[children.any(1), parent].all()
        assert not children[on[:, parent]].any(1).all()  # some of the parent's tokens have no child


def test_a_rare_child_is_equally_rare_under_every_parent() -> None:
    truth = World(num_rare_children=1).truth(0)
    rare = torch.stack([truth.children(int(parent))[-1] for parent in truth.parents])
    torch.testing.assert_close(truth.frequencies[rare], torch.full((12,), 1e-3, dtype=torch.float64))


def test_magnitudes_and_activations_match_the_description() -> None:
    truth = World(noise=0.0).truth(0)
    tokens = draw(truth, seed=0, number=0, num_tokens=NUM_TOKENS)
    magnitudes = tokens.magnitudes[tokens.magnitudes > 0]
    assert magnitudes.min() >= 0.2
    assert magnitudes.mean() == pytest.approx(1.0, abs=0.01)
    assert magnitudes.std() == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(tokens.x, tokens.magnitudes @ truth.directions)
    noisy = draw(World(noise=0.3).truth(0), seed=0, number=0, num_tokens=NUM_TOKENS)
    assert (noisy.x - noisy.magnitudes @ truth.directions).std() == pytest.approx(0.3, rel=0.01)


@pytest.mark.parametrize("cosine", [0.4, 0.6])
def test_children_share_their_parents_direction(cosine: float) -> None:
    truth = World(child_cosine=cosine).truth(0)
    child = truth.parent >= 0
    shared = (truth.directions[child] * truth.directions[truth.parent[child]]).sum(1)
    torch.testing.assert_close(shared, torch.full((36,), cosine))


def test_siblings_are_similar_in_direction_and_never_on_together() -> None:
    world = World(num_parents=2, num_sibling_sets=3, num_siblings=4, sibling_cosine=0.6)
    truth, on = world.truth(0), counted(world.truth(0))
    for number in range(3):
        siblings = torch.arange(2 + 16 + 4 * number, 2 + 16 + 4 * (number + 1))
        cosines = truth.directions[siblings] @ truth.directions[siblings].T
        off = cosines[~torch.eye(4, dtype=torch.bool)]
        assert off.min() > 0.5
        assert off.mean() == pytest.approx(0.6, abs=0.05)
        assert on[:, siblings].sum(1).max() == 1


def test_correlated_features_are_on_together() -> None:
    truth = World(num_parents=0, num_correlated=4, flat_exponent=0.0).truth(0)
    on = counted(truth).double()
    together = (on.T @ on) / len(on)
    lift = together / (on.mean(0).unsqueeze(1) * on.mean(0))
    tied = ~torch.eye(4, dtype=torch.bool)
    assert lift[:4, :4][tied].min() > 3
    assert lift[:4, 4:].max() < 1.5


def test_a_batch_is_a_pure_function_of_seed_and_number() -> None:
    truth = World().truth(3)
    again = draw(World().truth(3), seed=5, number=2, num_tokens=100)
    assert torch.equal(draw(truth, seed=5, number=2, num_tokens=100).x, again.x)
    assert not torch.equal(draw(truth, seed=5, number=3, num_tokens=100).x, again.x)
    assert not torch.equal(draw(truth, seed=6, number=2, num_tokens=100).x, again.x)
    assert not torch.equal(truth.directions, World().truth(4).directions)


def test_all_tensors_of_a_truth_move_to_a_device() -> None:
    moved = World().truth(0).to(torch.device("meta"))
    assert all(value.is_meta for value in vars(moved).values() if isinstance(value, Tensor))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"child_rate": 0.5}, "exclusive children"),
        ({"num_rare_children": 4}, "rare children"),
        ({"num_sibling_sets": 1, "sibling_rate": 0.4}, "exclusive siblings"),
        ({"num_correlated": 17}, "correlated"),
    ],
)
def test_an_impossible_world_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        World.parse(settings)


def test_directions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not reach"):
        World(d_in=8).truth(0)
