"""One-vs-rest tasks: for each class, the texts that its probes are fitted and tested on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saepipe.evaluate.model.kept_work import Content
from saepipe.evaluate.texts.binary_questions import BinaryExamples, one_vs_rest


@dataclass(frozen=True)
class Task:
    """A class against the others: equal numbers of both, sampled evenly from the others."""

    label: str
    train: BinaryExamples
    """rows of the dataset"""
    test: BinaryExamples


def sample_tasks(labels: Sequence[str], num_train: int, seed: int, *, mirrored: bool) -> list[Task]:
    """Samples the tasks of a dataset, class after class.

    Args:
        labels: labels of the texts, training texts first.
        num_train: number of training texts.
        seed: seed of the negatives and of the order.
        mirrored: if there are two classes, gives the second a task too, the mirror image of the first one's.
    """
    numbers, classes = number_classes(labels)
    generator = torch.Generator().manual_seed(seed)
    positive_classes = classes if mirrored or len(classes) > 2 else classes[:1]
    return [sample_task(numbers, num_train, index, classes, generator) for index in range(len(positive_classes))]


def sample_task(labels: Tensor, num_train: int, index: int, classes: Sequence[str], generator: torch.Generator) -> Task:
    """Samples the task of class `index`; as in the reference, training negatives, training order, then the test."""
    train = one_vs_rest(labels[:num_train], index, generator)
    test = one_vs_rest(labels[num_train:], index, generator)
    return Task(classes[index], train, BinaryExamples(test.rows + num_train, test.positive))


def number_classes(labels: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Returns each label's class number (num_texts,) int64, and the classes in order of first appearance."""
    classes = list(dict.fromkeys(labels))
    return torch.tensor([classes.index(label) for label in labels]), classes


def to_content(tasks: Sequence[Task]) -> Content:
    """Returns the stored form of tasks, for `from_content`."""
    tensors: dict[str, Tensor] = {}
    for number, task in enumerate(tasks):
        for side, examples in (("train", task.train), ("test", task.test)):
            tensors[f"{number}.{side}.rows"] = examples.rows
            tensors[f"{number}.{side}.positive"] = examples.positive
    return Content(tensors, {"labels": [task.label for task in tasks]})


def from_content(content: Content) -> list[Task]:
    def examples(tensors: Mapping[str, Tensor], name: str) -> BinaryExamples:
        return BinaryExamples(tensors[f"{name}.rows"], tensors[f"{name}.positive"])

    return [
        Task(label, examples(content.tensors, f"{number}.train"), examples(content.tensors, f"{number}.test"))
        for number, label in enumerate(content.info["labels"])
    ]
