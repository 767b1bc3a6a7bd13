"""The world of SynthSAEBench: its forest, rates and directions, against the published recipe in plain loops."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from saepipe.data.errors import ConfigError
from saepipe.data.synthetic import SynthBench, draw_copula
from saepipe.data.synthetic.directions import orthogonalized

SMALL = SynthBench(num_features=300, d_in=24, num_roots=5, depth=2, rates=(0.4, 0.01))


def test_the_defaults_are_the_published_settings() -> None:
    bench = SynthBench()
    assert (bench.num_features, bench.d_in, bench.num_roots, bench.branching, bench.depth) == (16_384, 768, 128, 4, 3)
    assert (bench.zipf, bench.rates, bench.rank, bench.correlation_scale) == (0.5, (0.4, 5e-4), 25, 0.1)
    assert (bench.mean_magnitudes, bench.std_magnitudes, bench.bias_norm) == ((5.0, 4.0), (0.5, 0.5), 0.5)
    assert (bench.orthogonal_steps, bench.orthogonal_lr) == (100, 3e-4)


def test_trees_are_built_level_by_level_and_children_exclude_each_other() -> None:
    world = SMALL.world(0)
    expected, queue, following = [-1] * 300, list(range(5)), 5
    for _ in range(2):
        level = []
        for parent in queue:
            expected[following : following + 4] = [parent] * 4
            level += range(following, following + 4)
            following += 4
        queue = level
    assert world.parent.tolist() == expected
    assert world.group.tolist() == expected
    assert world.scaled.tolist() == [parent >= 0 for parent in expected]


def test_rates_are_zipfian_and_compensated() -> None:
    world = SMALL.world(0)
    zipf = [(k + 1) ** -0.5 for k in range(300)]
    p = [0.01 + 0.39 * (value - zipf[-1]) / (1 - zipf[-1]) for value in zipf]
    fired = torch.special.ndtr(-world.threshold.double())
    for feature, parent in enumerate(world.parent.tolist()):
        expected = p[feature]
        if parent >= 0:
            siblings = [p[other] for other in range(300) if world.parent[other] == parent and other != feature]
            expected = min(1.0, p[feature] / p[parent] * (1 + sum(siblings) / p[parent]))
        assert float(fired[feature]) == pytest.approx(expected, rel=1e-4)


def test_a_forest_without_enough_features_ends_where_they_do() -> None:
    world = SynthBench(num_features=12, d_in=8, num_roots=3, depth=3, orthogonal_steps=0).world(0)
    assert world.parent.tolist() == [-1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 1, 2]


def test_directions_take_steps_of_adam_on_all_pairs() -> None:
    random = normalize(torch.randn(30, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    rows = random.clone().requires_grad_()
    adam = torch.optim.Adam([rows], lr=0.01)
    for _ in range(20):
        products = rows @ rows.T
        off_diagonal = products - torch.diag(products.diagonal())
        loss = off_diagonal.square().sum() + 30 * (products.diagonal() - 1).square().sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    expected = normalize(rows.detach(), dim=1)
    torch.testing.assert_close(orthogonalized(random, num_steps=20, lr=0.01), expected, rtol=0, atol=1e-5)
    assert (expected @ expected.T).square().sum() < (random @ random.T).square().sum()


def test_loadings_leave_a_feature_something_of_its_own() -> None:
    world = SynthBench(num_features=50, d_in=8, num_roots=5, correlation_scale=1.0).world(0)
    torch.testing.assert_close(world.loadings.square().sum(1), torch.full((50,), 0.99))
    assert SMALL.world(0).loadings.std() == pytest.approx(0.1, rel=0.02)


def test_a_world_is_a_pure_function_of_its_seed() -> None:
    first, again, other = SMALL.world(1), SMALL.world(1), SMALL.world(2)
    assert torch.equal(draw_copula(first, 0, 3, 50).x, draw_copula(again, 0, 3, 50).x)
    assert not torch.equal(first.directions, other.directions)
    assert not torch.equal(first.std, other.std)
    assert torch.equal(first.parent, other.parent)


def test_too_few_features_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot include 128 roots"):
        SynthBench.parse({"num_features": 100})
