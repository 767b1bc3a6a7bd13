"""Splits of a task: sizes, balance, and rows that are never on both sides."""

from __future__ import annotations

import math

import numpy as np
import pytest

from saepipe.data.errors import ConfigError
from saepipe.evaluate.metrics.sae_probes.binary_tasks import Task
from saepipe.evaluate.metrics.sae_probes.splits import splits


def task(num_rows: int) -> Task:
    return Task("made", "yes", np.arange(num_rows), np.arange(num_rows) % 2 == 1)


@pytest.mark.parametrize(("num_rows", "num_train"), [(102, 2), (728, 628), (5000, 1024)])
def test_normal_trains_on_1024_rows_and_leaves_100(num_rows: int, num_train: int) -> None:
    (split,) = splits(task(num_rows), "normal", 42)
    assert len(split.train) == num_train
    assert len(split.test) == num_rows - num_train - 1
    assert not set(split.train) & set(split.test)
    assert task(num_rows).positive[split.train].sum() == num_train // 2
    assert task(num_rows).positive[split.test].sum() == math.ceil(len(split.test) / 2)


def test_the_seed_decides_rows_and_order() -> None:
    (first,), (same,), (other,) = (splits(task(300), "normal", seed) for seed in (42, 42, 7))
    assert first.train.tolist() == same.train.tolist()
    assert first.train.tolist() != sorted(first.train)
    assert set(first.train) != set(other.train)


def test_scarcity_has_sizes_evenly_spaced_in_log_size() -> None:
    sizes = [len(split.train) for split in splits(task(5000), "scarcity", 42)]
    assert sizes == [round(2 ** (1 + 9 * step / 19)) for step in range(20)]
    assert [len(split.train) for split in splits(task(200), "scarcity", 42)] == [size for size in sizes if size <= 100]


@pytest.mark.parametrize(("num_rows", "num_train", "num_test"), [(728, 283, 100), (5000, 1024, 1606)])
def test_imbalance_has_the_same_shares_on_both_sides(num_rows: int, num_train: int, num_test: int) -> None:
    made = list(splits(task(num_rows), "imbalance", 42))
    assert [split.name for split in made] == [f"positive={share / 100:.2f}" for share in range(5, 100, 5)]
    for share, split in zip(range(5, 100, 5), made, strict=True):
        assert (len(split.train), len(split.test)) == (num_train, num_test)
        assert not set(split.train) & set(split.test)
        for rows in (split.train, split.test):
            assert 0 <= task(num_rows).positive[rows].sum() - share * len(rows) / 100 <= 1


@pytest.mark.parametrize(("setting", "num_rows"), [("normal", 100), ("imbalance", 180)])
def test_too_few_rows(setting: str, num_rows: int) -> None:
    with pytest.raises(ConfigError, match=f"{num_rows}"):
        list(splits(task(num_rows), setting, 42))
