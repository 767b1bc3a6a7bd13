"""Pairs of latents: found, counted and pushed apart, against loops over all of them."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from saepipe.train.pairs import coactivation, search
from saepipe.train.pairs.coactivation import by_codes, by_tiles, top_coactive
from saepipe.train.pairs.fellows import fellows
from saepipe.train.pairs.gates import all_pairs, gate_statistics, refreshes
from saepipe.train.pairs.hinge import cosines, hinge
from saepipe.train.pairs.keys import each_once, find, keys_of, no_pair, overlap, pairs_at
from saepipe.train.pairs.running_means import Joint, carried, fresh_moments, moments, moved
from saepipe.train.pairs.search import nearest, neighbour_keys, top_pairs

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
    """How often each latent fires, its mean, and the activations: what `moved` is told of a batch."""
    return (acts > 0).double().mean(0), acts.mean(0), acts


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that do not divide d_sae, so that their edges count."""
    monkeypatch.setattr(search, "ROWS", 7)
    monkeypatch.setattr(search, "COLUMNS", 9)
    monkeypatch.setattr(search, "SIDE", 11)


def ranked(score: dict[tuple[int, int], float]) -> list[tuple[int, int]]:
    return sorted(score, key=lambda pair: -score[pair])


def as_tuples(keys: Tensor) -> list[tuple[int, int]]:
    pairs = pairs_at(keys, D_SAE)
    return [(i, j) for i, j, real in zip(pairs.i.tolist(), pairs.j.tolist(), pairs.real.tolist(), strict=True) if real]


def test_a_key_names_its_pair_whatever_the_order_of_its_ends() -> None:
    keys = keys_of(torch.tensor([3, 9, 5]), torch.tensor([7, 2, 5]), D_SAE)
    assert as_tuples(keys) == [(3, 7), (2, 9)]
    assert pairs_at(keys, D_SAE).real.tolist() == [True, True, False]


def test_each_pair_once() -> None:
    keys = torch.tensor([9, 4, 9, no_pair(D_SAE), 4, 4])
    assert each_once(keys, D_SAE).tolist() == [4, 9] + 4 * [no_pair(D_SAE)]


def test_overlap_is_that_of_sets() -> None:
    new, old, nobody = torch.tensor([1, 4, 9, 1600]), torch.tensor([1, 9, 11, 13]), torch.tensor(4 * [1600])
    assert [float(share) for share in overlap(new, old, D_SAE)] == pytest.approx([2 / 5, 2 / 4])
    assert [float(share) for share in overlap(nobody, nobody, D_SAE)] == [0, 0]
    assert not find(nobody, nobody, D_SAE)[1].any()


@pytest.mark.usefixtures("small_tiles")
def test_nearest_in_tiles_is_a_sort_of_each_row(rows: Tensor) -> None:
    values, indices = nearest(rows, 5)
    for i, row in enumerate((rows @ rows.T).tolist()):
        others = sorted((j for j in range(D_SAE) if j != i), key=lambda j: -row[j])[:5]
        assert indices[i].tolist() == others
        assert values[i].tolist() == pytest.approx([row[j] for j in others])


@pytest.mark.usefixtures("small_tiles")
def test_top_pairs_in_tiles_is_a_sort_of_all(rows: Tensor) -> None:
    cosine = (rows @ rows.T).tolist()
    expected = ranked({(i, j): cosine[i][j] for i, j in combinations(range(D_SAE), 2)})
    found = top_pairs(rows, 100)
    assert as_tuples(found.keys) == expected[:100]
    assert found.scores.tolist() == pytest.approx([cosine[i][j] for i, j in expected[:100]])
    num_all = D_SAE * (D_SAE - 1) // 2
    assert as_tuples(top_pairs(rows, num_all).keys) == expected
    assert len(as_tuples(top_pairs(rows, num_all + 20).keys)) == num_all


def test_neighbours_hold_each_pair_once_and_nobody_with_itself(rows: Tensor) -> None:
    largest, keys = neighbour_keys(rows, 6)
    found = as_tuples(keys)
    assert found == sorted(set(found))
    assert set(found) == {
        tuple(sorted((i, j))) for i, others in enumerate(nearest(rows, 6)[1].tolist()) for j in others
    }
    without_itself = (rows @ rows.T).masked_fill(torch.eye(D_SAE, dtype=torch.bool), -1)
    torch.testing.assert_close(largest, without_itself.amax(1))


@pytest.mark.parametrize("slab", [1, 50, 2**21])
def test_coactivation_by_codes_is_by_tiles_is_by_loops(
    acts: Tensor, slab: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coactivation, "SLAB", slab)
    together = {(i, j): float(acts[:, i] @ acts[:, j]) for i, j in combinations(range(D_SAE), 2)}
    expected = [pair for pair in ranked(together) if together[pair] > 0]
    assert 30 < len(expected) < len(together), "some pairs are never active together"
    for search_of in (by_codes, by_tiles):
        assert as_tuples(search_of(acts, 30).keys) == expected[:30]
        assert as_tuples(search_of(acts, len(together)).keys) == expected
        assert search_of(acts, 30).scores.tolist() == pytest.approx([together[pair] for pair in expected[:30]])


def test_sparse_activations_of_a_wide_sae_are_counted_and_dense_ones_multiplied(
    acts: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    monkeypatch.setattr(coactivation, "by_codes", lambda acts, num: taken.append("codes"))
    monkeypatch.setattr(coactivation, "by_tiles", lambda acts, num: taken.append("tiles"))
    top_coactive(acts, 3)
    monkeypatch.setattr(coactivation, "SMALL", D_SAE - 1)
    top_coactive(acts, 3)
    monkeypatch.setattr(coactivation, "COST", 1)
    top_coactive(acts, 3)
    assert taken == ["tiles", "tiles", "codes"]


def test_no_activation_at_all(acts: Tensor) -> None:
    for search_of in (by_codes, by_tiles):
        assert not as_tuples(search_of(torch.zeros_like(acts), 5).keys)


def test_fellows_are_the_nearest_of_their_chunk(rows: Tensor) -> None:
    uniform = torch.rand(D_SAE, generator=torch.Generator().manual_seed(2))
    cosine = rows @ rows.T
    found, largest = fellows(rows, uniform, 16)  # three chunks
    for members in uniform.argsort().tensor_split(3):
        for i in members.tolist():
            others = [j for j in members.tolist() if j != i]
            assert int(found[i]) == max(others, key=lambda j: float(cosine[i, j]))
            assert float(largest[i]) == pytest.approx(float(cosine[i, found[i]]))
    assert torch.equal(fellows(rows, uniform, D_SAE)[0], nearest(rows, 1)[1][:, 0])


@pytest.mark.parametrize(("numbers", "small"), [(50, D_SAE), (2**22, D_SAE), (2**22, 0)])
def test_the_hinge_and_its_gradients_are_those_of_the_sum(
    rows: Tensor, numbers: int, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows gathered in parts, at once, and by sparse products."""
    monkeypatch.setattr("saepipe.train.pairs.hinge.NUMBERS", numbers)
    monkeypatch.setattr("saepipe.train.pairs.hinge.SMALL", small)
    rows.requires_grad_()
    weight = torch.rand(90, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    pairs = pairs_at(top_pairs(rows, 90).keys, D_SAE)
    cosine = cosines(rows, pairs)
    found = hinge(rows, pairs, cosine, weight, 0.3)
    expected = (weight * ((rows[pairs.i] * rows[pairs.j]).sum(1) - 0.3).relu().square()).sum()
    assert 0 < (cosine > 0.3).sum() < 90, "the margin cuts"
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(*(torch.autograd.grad(value, [rows, weight]) for value in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_all_pairs_by_one_sum(rows: Tensor) -> None:
    cosine = rows @ rows.T
    expected = sum(float(cosine[i, j]) for i, j in combinations(range(D_SAE), 2))
    assert float(all_pairs(rows).cosine_sum) == pytest.approx(expected)
    assert float(all_pairs(rows).num) == D_SAE * (D_SAE - 1) / 2


def test_gate_statistics_see_a_latent_paired_with_itself(rows: Tensor) -> None:
    pairs = pairs_at(torch.tensor([1, 2 * D_SAE + 5, 3 * D_SAE + 3]), D_SAE)  # (0, 1), (2, 5), (3, 3)
    held = {name: torch.zeros(()) for name in ("max_cos_mean", "jaccard", "survival")}
    chosen = torch.tensor([True, False, True])
    found = gate_statistics(held, pairs, cosines(rows, pairs), chosen, all_pairs(rows))
    assert float(found["self_share"]) == 0.5
    assert float(found["cos_in"]) == pytest.approx((float(rows[0] @ rows[1]) + 1) / 2)


def test_a_search_costs_about_one_percent_of_the_steps() -> None:
    d_in, d_sae, batch, num_steps = 2304, 16384, 4096, 10_000
    num_searches = sum(refreshes(None, step, batch, d_sae) for step in range(num_steps))
    assert num_searches * 2 * d_sae**2 * d_in / (num_steps * 12 * batch * d_sae * d_in) == pytest.approx(0.01, rel=0.02)
    assert [step for step in range(7) if refreshes(3, step, batch, d_sae)] == [0, 3, 6]


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
    """After n batches the t-th counts for decay^(n - t), and the weights add up to 1: no bias towards 0."""
    monkeypatch.setattr("saepipe.train.pairs.running_means.SMALL", small)
    rng = torch.Generator().manual_seed(4)
    batches = torch.randn(6, BATCH, D_SAE, generator=rng).sub(0.3).relu()
    keys = keys_of(torch.tensor([0, 2, 7]), torch.tensor([1, 30, 9]), D_SAE).sort().values
    state = fresh_moments(3, D_SAE, joint) | {"keys": keys}
    for acts in batches:
        state = moved(state, *over_tokens(acts), joint, share=0.1)
    known = moments(state, tokens_a_unit=10 * BATCH)
    share = torch.tensor([0.9 ** (5 - t) for t in range(6)])
    share = share / share.sum()
    for row, (i, j) in enumerate(as_tuples(keys)):
        rate = [float((share * (batches[..., latent] > 0).float().mean(1)).sum()) for latent in (i, j)]
        parent, child = (i, j) if rate[0] >= rate[1] else (j, i)
        together = JOINT[joint](batches[..., parent], batches[..., child]).float().mean(1)
        assert float(known.joint[row]) == pytest.approx(float((share * together).sum()), rel=1e-5)
        assert float(known.rate_parent[row]) == pytest.approx(max(rate), rel=1e-5)
        assert float(known.rate_child[row]) == pytest.approx(min(rate), rel=1e-5)
        mean_child = float((share * batches[..., child].mean(1)).sum())
        assert float(known.mean_child[row]) == pytest.approx(mean_child, rel=1e-5)
    assert known.num_tokens.tolist() == pytest.approx(3 * [10 * BATCH * (1 - 0.9**6)])


def test_what_is_known_of_a_pair_survives_a_refresh_exactly(acts: Tensor) -> None:
    old = torch.tensor([3, 50, 77, 800, no_pair(D_SAE)])
    new = torch.tensor([3, 60, 800, 900, no_pair(D_SAE)])
    state = moved(fresh_moments(5, D_SAE, "strength") | {"keys": old}, *over_tokens(acts), "strength", BATCH / 100)
    after = carried(state, new, D_SAE)
    assert torch.equal(after["joint"][[0, 2]], state["joint"][[0, 3]])
    assert torch.equal(after["joint_seen"][[0, 2]], state["joint_seen"][[0, 3]])
    assert not after["joint"][[1, 3, 4]].any()
    assert not after["joint_seen"][[1, 3, 4]].any()
    assert torch.equal(after["rate"], state["rate"])
