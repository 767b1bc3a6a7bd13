"""Binary tasks from labels."""

from __future__ import annotations

import numpy as np
import pytest

from saepipe.data.errors import ConfigError
from saepipe.evaluate.metrics.sae_probes.binary_tasks import binary_tasks
from saepipe.evaluate.texts.config import LabelledDatasetConfig

FILE = LabelledDatasetConfig(name="mine", source="mine.csv")


def test_two_balanced_classes_are_one_task_of_all_rows() -> None:
    """The second label in order is positive, as scikit-learn's LabelEncoder numbers them; numbers sort by value."""
    (task,) = binary_tasks(FILE, ["10", "9", "9", "10"], 42)
    assert task.name == "mine"
    assert task.positive_class == "10"
    assert task.rows.tolist() == [0, 1, 2, 3]
    assert task.positive.tolist() == [True, False, False, True]
    (task,) = binary_tasks(FILE.model_copy(update={"classes": ("10", "9")}), ["10", "9", "9", "10"], 42)
    assert task.positive_class == "9"


def test_the_larger_class_loses_rows() -> None:
    labels = ["no"] * 30 + ["yes"] * 10
    (task,) = binary_tasks(FILE, labels, 42)
    assert task.positive.sum() == 10
    assert len(task.rows) == len(set(task.rows)) == 20
    assert sorted(task.rows) == task.rows.tolist()
    assert [labels[row] == "yes" for row in task.rows] == task.positive.tolist()


def test_several_classes_are_a_task_each() -> None:
    labels = ["a", "b", "c", "a", "b", "c", "c"] * 5
    tasks = binary_tasks(FILE, labels, 42)
    assert [task.name for task in tasks] == ["mine/a", "mine/b", "mine/c"]
    for task in tasks:
        assert [labels[row] == task.positive_class for row in task.rows] == task.positive.tolist()
        assert 2 * task.positive.sum() == len(task.rows)
    assert np.isin([row for row, label in enumerate(labels) if label == "a"], tasks[0].rows).all()


@pytest.mark.parametrize("labels", [["a"] * 10, [str(number) for number in range(60)]])
def test_a_column_without_classes_is_an_error(labels: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"have {len(set(labels))} labels in column 'label'"):
        binary_tasks(FILE, labels, 42)
