"""One-to-one matching: the best where it is assigned, bounds of it where it is not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor

from saepipe.evaluate.stats import one_to_one
from saepipe.evaluate.stats.one_to_one import Nearest, match_one_to_one

pytestmark = pytest.mark.quick


@dataclass(frozen=True)
class Given:
    scores: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.scores), self.scores.shape[1]

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        return self.scores[rows][:, columns]


def random_scores(num_rows: int, num_columns: int, seed: int = 0) -> Given:
    return Given(torch.randn(num_rows, num_columns, generator=torch.Generator().manual_seed(seed)))


def best_sum(scores: Tensor) -> float:
    """Tries every one-to-one matching of all rows."""
    rows = torch.arange(len(scores))
    return max(float(scores[rows, list(order)].sum()) for order in permutations(range(scores.shape[1]), len(scores)))


@pytest.mark.parametrize("shape", [(5, 5), (4, 6), (6, 4)])
@pytest.mark.parametrize("max_assigned", [6, 3, 1])
def test_the_sum_is_the_best_or_between_the_bounds(shape: tuple[int, int], max_assigned: int) -> None:
    for seed in range(10):
        given = random_scores(*shape, seed)
        matching = match_one_to_one(given, max_assigned)
        num = min(shape)
        assert len(set(matching.rows.tolist())) == len(set(matching.columns.tolist())) == num
        assert matching.scores.tolist() == pytest.approx(given.scores[matching.rows, matching.columns].tolist())
        best = best_sum(given.scores if shape[0] <= shape[1] else given.scores.T)
        lower = float(matching.scores.sum())
        if max_assigned == 6:
            assert lower == pytest.approx(best)
            assert matching.upper == lower
        assert lower - 1e-6 <= best <= matching.upper + 1e-6


def test_beyond_the_limit_the_nearest_are_matched_first() -> None:
    """Equal to taking the largest score that is left, again and again."""
    given = random_scores(9, 7)
    left, greedy = given.scores.clone(), {}
    for _ in range(7):
        row, column = np.unravel_index(int(left.argmax()), left.shape)
        greedy[int(row)] = int(column)
        left[row], left[:, column] = -torch.inf, -torch.inf
    matching = match_one_to_one(given, max_assigned=1)
    assert dict(zip(matching.rows.tolist(), matching.columns.tolist(), strict=True)) == greedy


def test_ties_come_to_an_end() -> None:
    matching = match_one_to_one(Given(torch.ones(8, 8)), max_assigned=1)
    assert sorted(matching.columns.tolist()) == list(range(8))
    assert matching.upper == float(matching.scores.sum()) == 8


def test_no_rows_or_no_columns() -> None:
    for shape in ((0, 3), (3, 0), (0, 0)):
        assert len(match_one_to_one(Given(torch.zeros(shape)), 1).rows) == 0


def test_tiles_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    given = random_scores(11, 13)
    rows, columns = torch.arange(11), torch.arange(13)
    whole = Nearest.of(given, rows, columns)
    monkeypatch.setattr(one_to_one, "_HELD", 3 * 13)
    tiled = Nearest.of(given, rows, columns)
    for name in ("of_row", "column", "of_column", "row"):
        assert getattr(whole, name).tolist() == getattr(tiled, name).tolist()
