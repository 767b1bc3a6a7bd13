"""Binary tasks of a dataset: its rows of one class, and as many others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saepipe.data.errors import ConfigError
from saepipe.evaluate.texts.config import LabelledDatasetConfig
from saepipe.evaluate.texts.sample import MAX_CLASSES, natural_key


@dataclass(frozen=True)
class Task:
    """A balanced binary question about some rows of a dataset."""

    name: str
    positive_class: str
    rows: np.ndarray
    """(num_rows,) int64, ascending"""
    positive: np.ndarray
    """(num_rows,) bool"""


def binary_tasks(config: LabelledDatasetConfig, labels: Sequence[str], seed: int) -> list[Task]:
    """Returns the task of two classes, whose second one is positive, or one task per class of several.

    The more frequent side loses rows, sampled with the seed, until both are equal. The package's own files are
    balanced, so they lose none.

    Args:
        config: names the dataset, and the classes in their order; without those, labels are sorted, as by scikit-learn.
        labels: label of each row.
        seed: seed of the rows that are left out.

    Raises:
        ConfigError: if there is one class, or too many labels to be classes.
    """
    classes = config.classes or sorted(set(labels), key=natural_key)
    if len(set(labels)) < 2 or len(classes) > MAX_CLASSES:
        raise ConfigError(
            f"{config.name}: a task needs at least 2 classes, and at most {MAX_CLASSES} make sense; its first "
            f"{len(labels):,} rows have {len(set(labels))} labels in column {config.label!r}",
            hint="check `label` and `classes`; if the rows are sorted by label, raise `max_rows`",
        )
    column = np.array(labels, dtype=object)
    if len(classes) == 2:
        return [_balanced(config.name, classes[1], column == classes[1], seed)]
    present = [label for label in classes if label in set(labels)]
    return [_balanced(f"{config.name}/{label}", label, column == label, seed) for label in present]


def _balanced(name: str, label: str, positive: np.ndarray, seed: int) -> Task:
    rng = np.random.RandomState(seed)
    sides = [np.flatnonzero(positive), np.flatnonzero(~positive)]
    fewest = min(map(len, sides))
    kept = [side if len(side) == fewest else rng.choice(side, fewest, replace=False) for side in sides]
    rows = np.sort(np.concatenate(kept))
    return Task(name, label, rows, positive[rows])
