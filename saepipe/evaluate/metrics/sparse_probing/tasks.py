"""One against the rest: the texts that a probe of each class is fitted on, and asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saepipe.evaluate.model.kept_work import Content
from saepipe.evaluate.texts.binary_questions import Examples, one_against_rest


@dataclass(frozen=True)
class Task:
    """A class against the others: equal numbers of both, drawn evenly from the others."""

    label: str
    train: Examples
    """rows of the data set"""
    test: Examples


def tasks(labels: Sequence[str], num_train: int, seed: int, *, mirrored: bool) -> list[Task]:
    """The tasks of a data set, class after class.

    Args:
        labels: of the texts, training texts first.
        num_train: how many those are.
        seed: of the draws of negatives, and of the order.
        mirrored: whether of two classes the second has a task too; it is the first one's, with yes for no.
    """
    numbers, classes = numbered(labels)
    generator = torch.Generator().manual_seed(seed)
    asked = classes if mirrored or len(classes) > 2 else classes[:1]
    return [task(numbers, num_train, index, classes, generator) for index in range(len(asked))]


def task(numbers: Tensor, num_train: int, index: int, classes: Sequence[str], generator: torch.Generator) -> Task:
    """The task of class `index`, drawn in the reference's order: training negatives, their order, and so for test."""
    known = one_against_rest(numbers[:num_train], index, generator)
    unseen = one_against_rest(numbers[num_train:], index, generator)
    return Task(classes[index], known, Examples(unseen.rows + num_train, unseen.positive))


def numbered(labels: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Each label's number (num_texts,) int64, and the classes in the order in which they come."""
    classes = list(dict.fromkeys(labels))
    return torch.tensor([classes.index(label) for label in labels]), classes


def stored(asked: Sequence[Task]) -> Content:
    """For `read`."""
    tensors: dict[str, Tensor] = {}
    for number, one in enumerate(asked):
        for side, examples in (("train", one.train), ("test", one.test)):
            tensors[f"{number}.{side}.rows"] = examples.rows
            tensors[f"{number}.{side}.positive"] = examples.positive
    return Content(tensors, {"labels": [one.label for one in asked]})


def read(content: Content) -> list[Task]:
    def examples(tensors: Mapping[str, Tensor], name: str) -> Examples:
        return Examples(tensors[f"{name}.rows"], tensors[f"{name}.positive"])

    return [
        Task(label, examples(content.tensors, f"{number}.train"), examples(content.tensors, f"{number}.test"))
        for number, label in enumerate(content.info["labels"])
    ]
