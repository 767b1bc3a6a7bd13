"""Answers that the probes of each class give on the test texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saepipe.evaluate.metrics.sparse_probing.probe_keys import FULL
from saepipe.evaluate.metrics.sparse_probing.tasks import Task, number_classes, sample_task
from saepipe.evaluate.stats.linear_probes import Probe, Scaling, Training, fit, fit_validated, ranked, train
from saepipe.evaluate.texts.binary_questions import BinaryExamples

_VALIDATION = 5
"""One training text in this many chooses the full probe's penalty."""


@dataclass(frozen=True)
class ProbeAnswers:
    """Answers of one probe, with the columns it reads and its weights."""

    rows: Tensor
    """(num_test,) int64: the test texts"""
    correct: Tensor
    """(num_test,) bool"""
    positive: Tensor
    """(num_test,) bool: True for texts of the class"""
    columns: Tensor
    """(num_columns,) int64: the columns it reads, those with the largest class difference first"""
    weight: Tensor
    """(num_columns,) float64, of standardised columns in mode fixed"""
    bias: Tensor
    """() float64"""

    @property
    def accuracy(self) -> float:
        return float(self.correct.double().mean())

    @property
    def majority_rate(self) -> float:
        """Share of the more common of the two answers, the accuracy of a constant probe."""
        share = float(self.positive.double().mean())
        return max(share, 1 - share)

    @property
    def is_constant(self) -> bool:
        """True if the answer is the same on every text."""
        return len(torch.unique(self.correct == self.positive)) == 1


Answers = dict[str, dict[str, ProbeAnswers]]
"""By probe, then by class."""


def fixed_answers(
    x: Tensor, tasks: Sequence[Task], ks: Sequence[int], *, full: bool, on_step: Callable[[], None]
) -> Answers:
    """Fits probes on columns standardised on the training texts; each k takes the first k by distance of class means.

    Args:
        x: (num_texts, d) pooled, float32.
        tasks: the same for every probe and every SAE.
        ks: numbers of columns; those above d are left out.
        full: also fits a probe on all columns, the most expensive one.
        on_step: called after each task.
    """
    answers: Answers = {}
    for task in tasks:
        x_train, y = x[task.train.rows], task.train.positive
        scaling = Scaling.of(x_train)
        x_train, x_test = scaling(x_train), scaling(x[task.test.rows])
        order = ranked(x_train, y)
        if full:
            varying = order[scaling.scale[order] > 0]
            columns = varying if len(varying) else order[:1]
            probe = fit_validated(x_train[:, columns], y, len(y) // _VALIDATION)
            answers.setdefault(FULL, {})[task.label] = _answer(probe, columns, x_test, task.test)
        for k in ks:
            if k <= x.shape[1]:
                columns = order[:k]
                probe = fit(x_train[:, columns], y)
                answers.setdefault(str(k), {})[task.label] = _answer(probe, columns, x_test, task.test)
        on_step()
    return answers


def used_columns(x: Tensor, tasks: Sequence[Task], k: int) -> Tensor:
    """Returns the columns that probes of at most k columns will read in any task: (num_used,) int64, ascending."""
    orders = []
    for task in tasks:
        x_train = x[task.train.rows]
        orders.append(ranked(Scaling.of(x_train)(x_train), task.train.positive)[:k])
    return torch.unique(torch.cat(orders))


def renumber_columns(answers: Answers, columns: Tensor) -> Answers:
    """Converts answers of probes on x[:, columns] to answers of probes on x."""
    return {
        probe: {label: replace(answer, columns=columns[answer.columns]) for label, answer in by_class.items()}
        for probe, by_class in answers.items()
    }


def reference_answers(
    x: Tensor,
    labels: Sequence[str],
    num_train: int,
    ks: Sequence[int],
    generator: torch.Generator,
    *,
    full: bool,
    on_step: Callable[[], None],
) -> Answers:
    """Fits SAEBench 0.6.0's probes: raw columns, new negatives for each probe, the full probe's epoch chosen on test.

    Args:
        x: (num_texts, d) pooled, float32.
        labels: labels of the texts, training texts first.
        num_train: number of training texts.
        ks: numbers of columns; those above d are left out.
        generator: source of all random numbers.
        full: also trains a probe on all columns.
        on_step: called after each class of each probe.
    """
    numbers, classes = number_classes(labels)
    answers: Answers = {}
    for k in ([None] if full else []) + [k for k in ks if k <= x.shape[1]]:
        for index, label in enumerate(classes):
            task = sample_task(numbers, num_train, index, classes, generator)
            x_train, y, x_test = x[task.train.rows], task.train.positive, x[task.test.rows]
            if k is None:
                columns = torch.arange(x.shape[1])
                probe = train(x_train, y, x_test, task.test.positive, Training(), generator)
            else:
                columns = ranked(x_train, y)[:k].sort().values
                probe = fit(x_train[:, columns], y)
            name = FULL if k is None else str(k)
            answers.setdefault(name, {})[label] = _answer(probe, columns, x_test, task.test)
            on_step()
    return answers


def _answer(probe: Probe, columns: Tensor, x_test: Tensor, test: BinaryExamples) -> ProbeAnswers:
    correct = probe.correct(x_test[:, columns], test.positive)
    bias = torch.tensor(probe.bias, dtype=torch.float64)
    return ProbeAnswers(test.rows, correct, test.positive, columns, probe.weight, bias)


def to_tensors(answers: Answers) -> tuple[dict[str, Tensor], list[list[str]]]:
    """Returns tensors by name, and the probe and class of each number in those names, for `from_tensors`."""
    names = [[probe, label] for probe, by_class in answers.items() for label in by_class]
    return dict(_named_tensors(answers, names)), names


def from_tensors(tensors: Mapping[str, Tensor], names: Sequence[Sequence[str]]) -> Answers:
    answers: Answers = {}
    for number, (probe, label) in enumerate(names):
        fields = {field: tensors[f"{number}.{field}"] for field in ProbeAnswers.__dataclass_fields__}
        answers.setdefault(probe, {})[label] = ProbeAnswers(**fields)
    return answers


def _named_tensors(answers: Answers, names: Sequence[Sequence[str]]) -> Iterator[tuple[str, Tensor]]:
    for number, (probe, label) in enumerate(names):
        for field in ProbeAnswers.__dataclass_fields__:
            yield f"{number}.{field}", getattr(answers[probe][label], field).clone()  # files share no memory
