"""Rows that choose a penalty, by their number."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from saepipe.evaluate.metrics.sae_probes.folds import folds


def test_up_to_twelve_rows_leave_out_each_mixed_pair() -> None:
    positive = np.array([True, False, True, True, False])
    expected = [pair for pair in combinations(range(5), 2) if positive[pair[0]] != positive[pair[1]]]
    got = folds(positive, 42)
    assert [tuple(validated.tolist()) for _, validated in got] == expected
    assert all(sorted([*fitted, *validated]) == list(range(5)) for fitted, validated in got)


@pytest.mark.parametrize("num_rows", [14, 127])
def test_up_to_127_rows_make_six_stratified_folds(num_rows: int) -> None:
    positive = np.arange(num_rows) % 2 == 0
    got = folds(positive, 42)
    assert len(got) == 6
    assert sorted(np.concatenate([validated for _, validated in got])) == list(range(num_rows))
    assert all(abs(2 * positive[validated].sum() - len(validated)) <= 2 for _, validated in got)
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(got, folds(positive, 7), strict=True))


@pytest.mark.parametrize(("num_rows", "num_validation"), [(128, 25), (499, 99), (1024, 100)])
def test_more_rows_validate_on_their_end(num_rows: int, num_validation: int) -> None:
    ((fitted, validated),) = folds(np.zeros(num_rows, bool), 42)
    assert validated.tolist() == list(range(num_rows - num_validation, num_rows))
    assert fitted.tolist() == list(range(num_rows - num_validation))
