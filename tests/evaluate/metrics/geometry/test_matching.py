"""Matching two SAEs: copies with a known answer, and a search of all permutations."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from saepipe.evaluate.metrics.geometry import matching
from saepipe.evaluate.metrics.geometry.matching import match
from saepipe.evaluate.stats import one_to_one

pytestmark = pytest.mark.quick


@pytest.fixture(params=["assignment", "mutual nearest neighbours"])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "assignment":
        monkeypatch.setattr(matching, "MAX_ASSIGNED", 0)
        monkeypatch.setattr(one_to_one, "_HELD", 5 * 17)  # several tiles
    return request.param


def rows_of(num: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, 8, generator=torch.Generator().manual_seed(seed))


def test_a_permuted_and_scaled_copy(method: str) -> None:
    rows, order = rows_of(17), torch.randperm(17, generator=torch.Generator().manual_seed(1))
    matches = match(2 * rows[order], rows)
    assert matches.method == method
    assert matches.ours.tolist() == list(range(17))
    assert matches.theirs.tolist() == order.tolist()
    np.testing.assert_allclose(matches.cosine, 1, atol=1e-12)


def test_an_sae_with_duplicates_matches_itself(method: str) -> None:
    rows = rows_of(17)
    rows[3] = rows[9] = rows[12]
    matches = match(rows, rows.clone())
    assert matches.ours.tolist() == matches.theirs.tolist() == list(range(17))


def test_another_width_and_rows_of_zeros(method: str) -> None:
    rows = rows_of(12)
    rows[4] = 0.0
    matches = match(rows[:7], rows)
    assert matches.ours.tolist() == matches.theirs.tolist() == [0, 1, 2, 3, 5, 6]
    matches = match(rows, rows[:7])
    assert set(range(7)) - {4} <= set(matches.theirs[matches.cosine > 0.999].tolist())
    assert 4 not in matches.ours
    assert len(match(rows, torch.zeros(3, 8)).ours) == 0


def test_an_assignment_is_the_best_of_all_permutations() -> None:
    ours, theirs = rows_of(6), rows_of(6, seed=1)
    cosines = torch.cosine_similarity(ours.unsqueeze(1), theirs.unsqueeze(0), dim=2).numpy()
    best = max(permutations(range(6)), key=lambda order: cosines[range(6), order].sum())
    matches = match(ours, theirs)
    assert matches.theirs.tolist() == list(best)
    np.testing.assert_allclose(matches.cosine, cosines[range(6), best], atol=1e-6)


def test_mutual_neighbours_are_each_others_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "MAX_ASSIGNED", 0)
    monkeypatch.setattr(one_to_one, "_HELD", 4 * 9)
    ours, theirs = rows_of(13), rows_of(9, seed=1)
    cosines = torch.cosine_similarity(ours.unsqueeze(1), theirs.unsqueeze(0), dim=2).numpy()
    expected = [(i, int(row.argmax())) for i, row in enumerate(cosines) if cosines[:, row.argmax()].argmax() == i]
    matches = match(ours, theirs)
    assert 0 < len(expected) < 9
    assert list(zip(matches.ours, matches.theirs, strict=True)) == expected
