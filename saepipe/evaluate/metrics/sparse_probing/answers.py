"""What the probes of each class say of the test texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saepipe.evaluate.metrics.sparse_probing.tasks import Task, numbered, task
from saepipe.evaluate.stats.linear_probes import Probe, Scaling, Training, fit, fit_validated, ranked, train
from saepipe.evaluate.texts.binary_questions import Examples

FULL = "full"
"""The probe of all columns; the others are called by their number of columns."""

_VALIDATION = 5
"""One training text in so many chooses the full probe's penalty."""


@dataclass(frozen=True)
class Answer:
    """What one probe said."""

    rows: Tensor
    """(num_test,) int64: the texts it was asked about"""
    correct: Tensor
    """(num_test,) bool"""
    positive: Tensor
    """(num_test,) bool: whether they are of the class"""
    columns: Tensor
    """(num_columns,) int64: what it was given, the most telling first"""
    weight: Tensor
    """(num_columns,) float64, of standardised columns in mode fixed"""
    bias: Tensor
    """() float64"""

    @property
    def accuracy(self) -> float:
        return float(self.correct.double().mean())

    @property
    def majority(self) -> float:
        """The share of the commoner kind, which a probe that knows nothing would get right."""
        share = float(self.positive.double().mean())
        return max(share, 1 - share)

    @property
    def knows_nothing(self) -> bool:
        """Whether it says the same of every text."""
        return len(torch.unique(self.correct == self.positive)) == 1


Answers = dict[str, dict[str, Answer]]
"""By probe, then by class."""


def fixed_answers(
    x: Tensor, asked: Sequence[Task], ks: Sequence[int], *, full: bool, told: Callable[[], None]
) -> Answers:
    """Columns standardised on the training texts; the k with the most distant class means, for every k of one order.

    Args:
        x: (num_texts, d) pooled, float32.
        asked: the same tasks for every probe and every SAE.
        ks: numbers of columns; those above d are left out.
        full: whether a probe of all columns is fitted too, the dearest of them.
        told: called after each task.
    """
    answers: Answers = {}
    for one in asked:
        known, y = x[one.train.rows], one.train.positive
        scaling = Scaling.of(known)
        known, unseen = scaling(known), scaling(x[one.test.rows])
        order = ranked(known, y)
        if full:
            varying = order[scaling.scale[order] > 0]
            columns = varying if len(varying) else order[:1]
            probe = fit_validated(known[:, columns], y, len(y) // _VALIDATION)
            answers.setdefault(FULL, {})[one.label] = _answer(probe, columns, unseen, one.test)
        for k in ks:
            if k <= x.shape[1]:
                columns = order[:k]
                probe = fit(known[:, columns], y)
                answers.setdefault(str(k), {})[one.label] = _answer(probe, columns, unseen, one.test)
        told()
    return answers


def chosen(x: Tensor, asked: Sequence[Task], k: int) -> Tensor:
    """(num_chosen,) int64: the columns that some task's probe of k columns, or of fewer, will be given; ascending."""
    orders = []
    for one in asked:
        known = x[one.train.rows]
        orders.append(ranked(Scaling.of(known)(known), one.train.positive)[:k])
    return torch.unique(torch.cat(orders))


def renamed(answers: Answers, columns: Tensor) -> Answers:
    """Answers of probes of x[:, columns], as of x."""
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
    told: Callable[[], None],
) -> Answers:
    """SAEBench 0.6.0: columns as they are, negatives drawn anew for each probe, the full probe's epoch chosen on test.

    Args:
        x: (num_texts, d) pooled, float32.
        labels: of the texts, training texts first.
        num_train: how many those are.
        ks: numbers of columns; those above d are left out.
        generator: of all draws.
        full: whether a probe of all columns is trained too.
        told: called after each class of each probe.
    """
    numbers, classes = numbered(labels)
    answers: Answers = {}
    for k in ([None] if full else []) + [k for k in ks if k <= x.shape[1]]:
        for index, label in enumerate(classes):
            one = task(numbers, num_train, index, classes, generator)
            known, y, unseen = x[one.train.rows], one.train.positive, x[one.test.rows]
            if k is None:
                columns = torch.arange(x.shape[1])
                probe = train(known, y, unseen, one.test.positive, Training(), generator)
            else:
                columns = ranked(known, y)[:k].sort().values
                probe = fit(known[:, columns], y)
            name = FULL if k is None else str(k)
            answers.setdefault(name, {})[label] = _answer(probe, columns, unseen, one.test)
            told()
    return answers


def _answer(probe: Probe, columns: Tensor, unseen: Tensor, asked: Examples) -> Answer:
    correct = probe.correct(unseen[:, columns], asked.positive)
    bias = torch.tensor(probe.bias, dtype=torch.float64)
    return Answer(asked.rows, correct, asked.positive, columns, probe.weight, bias)


def to_tensors(answers: Answers) -> tuple[dict[str, Tensor], list[list[str]]]:
    """Tensors by name, and the probes and classes that the names count, for `from_tensors`."""
    names = [[probe, label] for probe, by_class in answers.items() for label in by_class]
    return dict(_named(answers, names)), names


def from_tensors(tensors: Mapping[str, Tensor], names: Sequence[Sequence[str]]) -> Answers:
    answers: Answers = {}
    for number, (probe, label) in enumerate(names):
        fields = {field: tensors[f"{number}.{field}"] for field in Answer.__dataclass_fields__}
        answers.setdefault(probe, {})[label] = Answer(**fields)
    return answers


def _named(answers: Answers, names: Sequence[Sequence[str]]) -> Iterator[tuple[str, Tensor]]:
    for number, (probe, label) in enumerate(names):
        for field in Answer.__dataclass_fields__:
            yield f"{number}.{field}", getattr(answers[probe][label], field).clone()  # files share no memory
