"""Pairs of latents: searches, statistics and the hinge, against loops over all pairs."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from saepipe.train.pairs import coactivation, search
from saepipe.train.pairs.coactivation import by_active_latents, by_tiles, top_coactive
from saepipe.train.pairs.hinge import cosines, hinge
from saepipe.train.pairs.keys import find, is_pair, keys_of, no_pair, overlap, pairs_at, unique_keys
from saepipe.train.pairs.nearest_in_chunk import nearest_in_chunk
from saepipe.train.pairs.running_means import Joint, carried_over, initial_means, moments, updated_means
from saepipe.train.pairs.search import nearest, neighbour_keys, top_pairs
from saepipe.train.pairs.selection import all_pairs, search_is_due, statistics

pytestmark = pytest.mark.quick

D_IN, D_SAE, BATCH = 24, 40, 17


@pytest.fixture
def rows() -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(D_SAE, D_IN, generator=rng, dtype=torch.float64), dim=1)


@pytest.fixture
def acts() -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, D_SAE, generator=rng, dtype=torch.float64).sub(0.5).relu()


def over_tokens(acts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns each latent's density and mean, and the activations: the arguments of `updated_means` for a batch."""
    return (acts > 0).double().mean(0), acts.mean(0), acts


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that do not divide d_sae, so that their edges are tested."""
    monkeypatch.setattr(search, "ROWS", 7)
    monkeypatch.setattr(search, "COLUMNS", 9)
    monkeypatch.setattr(search, "SIDE", 11)


def ranked(score: dict[tuple[int, int], float]) -> list[tuple[int, int]]:
    return sorted(score, key=lambda pair: -score[pair])


def as_tuples(keys: Tensor) -> list[tuple[int, int]]:
    pairs, real = pairs_at(keys, D_SAE), is_pair(keys, D_SAE)
    return [(i, j) for i, j, used in zip(pairs.i.tolist(), pairs.j.tolist(), real.tolist(), strict=True) if used]


def test_a_key_stands_for_its_pair_in_either_order() -> None:
    keys = keys_of(torch.tensor([3, 9, 5]), torch.tensor([7, 2, 5]), D_SAE)
    assert as_tuples(keys) == [(3, 7), (2, 9)]
    assert is_pair(keys, D_SAE).tolist() == [True, True, False]


def test_unique_keys_keep_each_pair_once() -> None:
    keys = torch.tensor([9, 4, 9, no_pair(D_SAE), 4, 4])
    assert unique_keys(keys, D_SAE).tolist() == [4, 9] + 4 * [no_pair(D_SAE)]


def test_overlap_is_that_of_sets() -> None:
    new, old, empty = torch.tensor([1, 4, 9, 1600]), torch.tensor([1, 9, 11, 13]), torch.tensor(4 * [1600])
    assert [float(share) for share in overlap(new, old, D_SAE)] == pytest.approx([2 / 5, 2 / 4])
    assert [float(share) for share in overlap(empty, empty, D_SAE)] == [0, 0]
    assert not find(empty, empty, D_SAE)[1].any()


@pytest.mark.usefixtures("small_tiles")
def test_nearest_in_tiles_equals_a_sort_of_each_row(rows: Tensor) -> None:
    values, indices = nearest(rows, 5)
    for i, row in enumerate((rows @ rows.T).tolist()):
        neighbours = sorted((j for j in range(D_SAE) if j != i), key=lambda j: -row[j])[:5]
        assert indices[i].tolist() == neighbours
        assert values[i].tolist() == pytest.approx([row[j] for j in neighbours])


@pytest.mark.usefixtures("small_tiles")
def test_top_pairs_in_tiles_equals_a_sort_of_all_pairs(rows: Tensor) -> None:
    cosine = (rows @ rows.T).tolist()
    expected = ranked({(i, j): cosine[i][j] for i, j in combinations(range(D_SAE), 2)})
    ranking = top_pairs(rows, 100)
    assert as_tuples(ranking.keys) == expected[:100]
    assert ranking.scores.tolist() == pytest.approx([cosine[i][j] for i, j in expected[:100]])
    num_all = D_SAE * (D_SAE - 1) // 2
    assert as_tuples(top_pairs(rows, num_all).keys) == expected
    assert len(as_tuples(top_pairs(rows, num_all + 20).keys)) == num_all


def test_neighbour_keys_hold_each_pair_once_and_no_self_pair(rows: Tensor) -> None:
    largest, keys = neighbour_keys(rows, 6)
    pairs = as_tuples(keys)
    assert pairs == sorted(set(pairs))
    neighbours = nearest(rows, 6)[1].tolist()
    assert set(pairs) == {tuple(sorted((i, j))) for i, nearest_to_i in enumerate(neighbours) for j in nearest_to_i}
    cosine = (rows @ rows.T).masked_fill(torch.eye(D_SAE, dtype=torch.bool), -1)
    torch.testing.assert_close(largest, cosine.amax(1))


@pytest.mark.parametrize("slab", [1, 50, 2**21])
def test_coactivation_by_active_latents_and_by_tiles_equals_loops(
    acts: Tensor, slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coactivation, "SLAB", slab)
    together = {(i, j): float(acts[:, i] @ acts[:, j]) for i, j in combinations(range(D_SAE), 2)}
    expected = [pair for pair in ranked(together) if together[pair] > 0]
    assert 30 < len(expected) < len(together), "some pairs are never active together"
    for search_of in (by_active_latents, by_tiles):
        assert as_tuples(search_of(acts, 30).keys) == expected[:30]
        assert as_tuples(search_of(acts, len(together)).keys) == expected
        assert search_of(acts, 30).scores.tolist() == pytest.approx([together[pair] for pair in expected[:30]])


def test_only_sparse_activations_of_a_wide_sae_are_listed(acts: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(coactivation, "by_active_latents", lambda acts, num: calls.append("active latents"))
    monkeypatch.setattr(coactivation, "by_tiles", lambda acts, num: calls.append("tiles"))
    top_coactive(acts, 3)
    monkeypatch.setattr(coactivation, "SMALL", D_SAE - 1)
    top_coactive(acts, 3)
    monkeypatch.setattr(coactivation, "COST", 1)
    top_coactive(acts, 3)
    assert calls == ["tiles", "tiles", "active latents"]


def test_no_pairs_without_any_activation(acts: Tensor) -> None:
    for search_of in (by_active_latents, by_tiles):
        assert not as_tuples(search_of(torch.zeros_like(acts), 5).keys)


def test_nearest_in_chunk_equals_a_loop_over_each_chunk(rows: Tensor) -> None:
    uniform = torch.rand(D_SAE, generator=torch.Generator().manual_seed(2))
    cosine = rows @ rows.T
    neighbour, largest = nearest_in_chunk(rows, uniform, 16)  # three chunks
    for members in uniform.argsort().tensor_split(3):
        for i in members.tolist():
            candidates = [j for j in members.tolist() if j != i]
            assert int(neighbour[i]) == max(candidates, key=lambda j: float(cosine[i, j]))
            assert float(largest[i]) == pytest.approx(float(cosine[i, neighbour[i]]))
    assert torch.equal(nearest_in_chunk(rows, uniform, D_SAE)[0], nearest(rows, 1)[1][:, 0])


@pytest.mark.parametrize(("numbers", "small"), [(50, D_SAE), (2**22, D_SAE), (2**22, 0)])
def test_the_hinge_and_its_gradients_equal_those_of_the_sum(
    rows: Tensor, numbers: int, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With rows gathered in parts, with all rows gathered at once, and with sparse products."""
    monkeypatch.setattr("saepipe.train.pairs.hinge.MAX_GATHERED", numbers)
    monkeypatch.setattr("saepipe.train.pairs.hinge.SMALL", small)
    rows.requires_grad_()
    weight = torch.rand(90, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    pairs = pairs_at(top_pairs(rows, 90).keys, D_SAE)
    cosine = cosines(rows, pairs)
    actual = hinge(rows, pairs, cosine, weight, 0.3)
    expected = (weight * ((rows[pairs.i] * rows[pairs.j]).sum(1) - 0.3).relu().square()).sum()
    assert 0 < (cosine > 0.3).sum() < 90, "the margin must exclude some pairs only"
    torch.testing.assert_close(actual, expected)
    for ours, truth in zip(*(torch.autograd.grad(value, [rows, weight]) for value in (actual, expected)), strict=True):
        torch.testing.assert_close(ours, truth)


def test_all_pairs_equals_a_loop(rows: Tensor) -> None:
    cosine = rows @ rows.T
    expected = sum(float(cosine[i, j]) for i, j in combinations(range(D_SAE), 2))
    assert float(all_pairs(rows).cosine_sum) == pytest.approx(expected)
    assert float(all_pairs(rows).num) == D_SAE * (D_SAE - 1) / 2


def test_statistics_count_a_latent_paired_with_itself(rows: Tensor) -> None:
    pairs = pairs_at(torch.tensor([1, 2 * D_SAE + 5, 3 * D_SAE + 3]), D_SAE)  # (0, 1), (2, 5), (3, 3)
    state = {name: torch.zeros(()) for name in ("max_cos_mean", "jaccard", "survival")}
    chosen = torch.tensor([True, False, True])
    values = statistics(state, pairs, cosines(rows, pairs), chosen, all_pairs(rows))
    assert float(values["self_share"]) == 0.5
    assert float(values["cos_in"]) == pytest.approx((float(rows[0] @ rows[1]) + 1) / 2)


@pytest.mark.parametrize(("d_sae", "batch"), [(16384, 4096), (65536, 4096), (640, 512), (4096, 1024)])
def test_searches_cost_five_to_ten_percent_of_the_steps(d_sae: int, batch: int) -> None:
    d_in, num_steps = 2304, 10_000
    due = [step for step in range(num_steps) if search_is_due(None, step, batch, d_sae)]
    share = len(due) * 2 * d_sae**2 * d_in / (num_steps * 12 * batch * d_sae * d_in)
    assert 0.05 <= share <= 0.11
    assert 100 in due  # log lines at multiples of 100 see the same part of every interval
    assert [step for step in range(7) if search_is_due(3, step, batch, d_sae)] == [0, 3, 6]


JOINT = {
    "firing": lambda parent, child: (parent > 0) & (child > 0),
    "strength": lambda parent, child: parent * (child > 0),
    "product": lambda parent, child: parent * child,
}


@pytest.mark.parametrize("small", [0, 512])
@pytest.mark.parametrize("joint", JOINT)
def test_running_means_are_weighted_means_of_the_batches(
    joint: Joint, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After n batches, batch t has a weight proportional to decay^(n - t); weights sum to 1, so nothing biases to 0."""
    monkeypatch.setattr("saepipe.train.pairs.running_means.SMALL", small)
    rng = torch.Generator().manual_seed(4)
    batches = torch.randn(6, BATCH, D_SAE, generator=rng).sub(0.3).relu()
    keys = keys_of(torch.tensor([0, 2, 7]), torch.tensor([1, 30, 9]), D_SAE).sort().values
    state = initial_means(3, D_SAE, joint) | {"keys": keys}
    for acts in batches:
        state = updated_means(state, pairs_at(keys, D_SAE, ascending=True), *over_tokens(acts), joint, share=0.1)
    means = moments(state, pairs_at(keys, D_SAE), tokens_per_unit=10 * BATCH)
    share = torch.tensor([0.9 ** (5 - t) for t in range(6)])
    share = share / share.sum()
    for row, (i, j) in enumerate(as_tuples(keys)):
        rate = [float((share * (batches[..., latent] > 0).float().mean(1)).sum()) for latent in (i, j)]
        parent, child = (i, j) if rate[0] >= rate[1] else (j, i)
        together = JOINT[joint](batches[..., parent], batches[..., child]).float().mean(1)
        assert float(means.joint[row]) == pytest.approx(float((share * together).sum()), rel=1e-5)
        assert float(means.rate_parent[row]) == pytest.approx(max(rate), rel=1e-5)
        assert float(means.rate_child[row]) == pytest.approx(min(rate), rel=1e-5)
        mean_child = float((share * batches[..., child].mean(1)).sum())
        assert float(means.mean_child[row]) == pytest.approx(mean_child, rel=1e-5)
    assert means.num_tokens.tolist() == pytest.approx(3 * [10 * BATCH * (1 - 0.9**6)])


def test_means_of_a_pair_survive_a_refresh_exactly(acts: Tensor) -> None:
    old = torch.tensor([3, 50, 77, 800, no_pair(D_SAE)])
    new = torch.tensor([3, 60, 800, 900, no_pair(D_SAE)])
    pairs = pairs_at(old, D_SAE, ascending=True)
    state = updated_means(
        initial_means(5, D_SAE, "strength") | {"keys": old}, pairs, *over_tokens(acts), "strength", BATCH / 100
    )
    after = carried_over(state, new, D_SAE)
    assert torch.equal(after["joint"][[0, 2]], state["joint"][[0, 3]])
    assert torch.equal(after["joint_seen"][[0, 2]], state["joint_seen"][[0, 3]])
    assert not after["joint"][[1, 3, 4]].any()
    assert not after["joint_seen"][[1, 3, 4]].any()
    assert torch.equal(after["rate"], state["rate"])
