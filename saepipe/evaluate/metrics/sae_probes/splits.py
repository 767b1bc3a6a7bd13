"""Training and test rows of a task under the three settings of sae-probes: normal, scarcity and imbalance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from saepipe.data.errors import ConfigError
from saepipe.evaluate.metrics.sae_probes.binary_tasks import Task

Setting = Literal["normal", "scarcity", "imbalance"]

_MAX_TRAIN = 1024
_MIN_TEST = 100
"""Rows that training leaves for the test, at least."""
_TRAIN_SIZES = np.unique(np.round(np.logspace(1, 10, num=20, base=2)).astype(int))
"""Training rows in setting scarcity: 2 to 1,024."""
_POSITIVE_SHARES = np.linspace(0.05, 0.95, num=19)
"""Share of positive rows in setting imbalance."""


@dataclass(frozen=True)
class Split:
    """Training and test rows of a task, in the order in which a probe sees them."""

    name: str
    """`normal`, `num_train=16` or `positive=0.05`"""
    train: np.ndarray
    """(num_train,) int64: positions in the task's rows"""
    test: np.ndarray
    """(num_test,) int64"""


def splits(task: Task, setting: Setting, seed: int) -> Iterator[Split]:
    """Yields the splits of a task: one in setting normal, one per training size or per share of positive rows.

    Raises:
        ConfigError: if the task has too few rows for any.
    """
    num_rows = len(task.rows)
    if num_rows < _MIN_TEST + 2:
        raise ConfigError(
            f"{task.name} has {num_rows} rows, equally many of both classes, and a split needs {_MIN_TEST + 2}",
            hint="give a larger file, or leave it out",
        )
    if setting == "imbalance":
        num_train, num_test = _imbalanced_sizes(num_rows)
        for share in _POSITIVE_SHARES.tolist():
            yield _split(f"positive={share:.2f}", task.positive, num_train, num_test, share, seed)
        return
    most = num_rows - _MIN_TEST
    sizes = (
        [size for size in _TRAIN_SIZES.tolist() if size <= most] if setting == "scarcity" else [min(most, _MAX_TRAIN)]
    )
    for size in sizes:
        name = "normal" if setting == "normal" else f"num_train={size}"
        yield _split(name, task.positive, size, num_rows - size - 1, 0.5, seed)


def _imbalanced_sizes(num_rows: int) -> tuple[int, int]:
    """Returns training and test rows such that every share can be had of both; the task's rows are balanced."""
    total = int(num_rows / 2 / float(_POSITIVE_SHARES.max()))
    num_train = min(total - _MIN_TEST, _MAX_TRAIN)
    if num_train < 2:
        raise ConfigError(
            f"setting imbalance needs 194 rows per task, and this one has {num_rows}", hint="use setting normal"
        )
    return num_train, max(_MIN_TEST, total - num_train - 1)


def _split(name: str, positive: np.ndarray, num_train: int, num_test: int, share: float, seed: int) -> Split:
    """Samples as the package does: training positives and negatives, test ones from the rest, then both orders."""
    rng = np.random.RandomState(seed)
    sides = [np.flatnonzero(positive), np.flatnonzero(~positive)]
    parts = []
    for size in (num_train, num_test):
        num_positive = math.ceil(share * size)
        sampled = [
            rng.choice(side, number, replace=False)
            for side, number in zip(sides, (num_positive, size - num_positive), strict=True)
        ]
        sides = [np.setdiff1d(side, taken) for side, taken in zip(sides, sampled, strict=True)]
        parts.append(np.concatenate(sampled))
    train, test = (rng.permutation(part) for part in parts)
    return Split(name, train, test)
