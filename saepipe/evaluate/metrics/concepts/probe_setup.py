"""Where SAEs are asked: activations of texts, and the examples and the probe of each question; the model's work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from saepipe.evaluate.metrics.concepts.sparse_direction import STRENGTHS, fit_sparse
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.stats.linear_probes import Training, train
from saepipe.evaluate.texts.binary_questions import Examples
from saepipe.evaluate.texts.config import Part
from saepipe.evaluate.texts.pooled import TextActivations

TRAINING = Training(lr=1e-3, batch_size=16, epochs=20, patience=20, l1=1e-3)
"""Of the probes of mode reference (SAEBench 0.6.0)."""

_VERSION = 1
"""Of stored probes and examples: raised when equal settings would give others."""

_VALIDATION = 5
"""One training example in so many chooses the penalty of a probe in mode fixed."""


@dataclass(frozen=True)
class Concepts:
    """Of one data set, or of one pair of its classes. Depends on the model alone."""

    train_signs: Tensor
    """(num_concepts, num_train) int8"""
    test_signs: Tensor
    """(num_concepts, num_test) int8"""
    directions: Tensor
    """(num_concepts, d_in) float32: the probes' weights"""
    intercepts: Tensor
    """(num_concepts,) float32"""

    @classmethod
    @torch.enable_grad()
    def fit(
        cls,
        train_pooled: Tensor,
        test_pooled: Tensor,
        examples: Iterable[tuple[Examples, Examples]],
        mode: Mode,
        generator: torch.Generator,
    ) -> Concepts:
        """With a probe trained for each concept.

        Args:
            train_pooled: (num_train, d_in).
            test_pooled: (num_test, d_in).
            examples: of each concept, to train and to test on; they may be drawn from `generator` one by one, as the
                reference does between the trainings.
            mode: fixed: L1-penalised logistic regression, its penalty chosen on the last of the training examples;
                reference: SAEBench's training, the best epoch chosen on the test examples.
            generator: of that training.
        """
        probes, train_signs, test_signs = [], [], []
        for known, unseen in examples:
            x, y = train_pooled[known.rows], known.positive
            if mode == "reference":
                probes.append(train(x, y, test_pooled[unseen.rows], unseen.positive, TRAINING, generator))
            else:
                probes.append(fit_sparse(x, y, len(y) // _VALIDATION))
            train_signs.append(known.signs(len(train_pooled)))
            test_signs.append(unseen.signs(len(test_pooled)))
        return cls(
            torch.stack(train_signs),
            torch.stack(test_signs),
            torch.stack([probe.weight.float() for probe in probes]),
            torch.tensor([probe.bias for probe in probes]),
        )

    def logits(self, pooled: Tensor) -> Tensor:
        """(num_texts, num_concepts) of pooled activations (num_texts, d_in); above 0 is positive."""
        return pooled @ self.directions.T + self.intercepts


@dataclass(frozen=True)
class Bench:
    """Where SAEs are asked about one data set, or about one pair of its classes."""

    concepts: Concepts
    train: TextActivations
    test: TextActivations

    @property
    def num_train(self) -> int:
        """Examples of the question that has fewest."""
        return int((self.concepts.train_signs != 0).sum(1).min())

    @property
    def num_test(self) -> int:
        return int((self.concepts.test_signs != 0).sum(1).min())


def concepts_work(texts: Work, which: str, context_size: int, seed: int, mode: Mode) -> Work:
    """What decides the probes and their examples: the texts by their work, and which of them."""
    key = {"texts": {"kind": texts.kind, **texts.key}, "which": which, "seed": seed, "mode": mode}
    probe = {"strengths": list(STRENGTHS)} if mode == "fixed" else asdict(TRAINING)
    return Work("concepts", {**key, "context_size": context_size, "probe": probe, "version": _VERSION})


def prepare(
    testbed: Testbed,
    work: Work,
    activations: TextActivations,
    num_train: int,
    draw: Callable[[Part, torch.Generator], Iterable[Examples]],
) -> Bench:
    """The concepts are an artifact: examples are drawn and probes trained once, the same for every SAE.

    Args:
        testbed: for its artifacts and its mode.
        work: see `concepts_work`.
        activations: of the training texts, then the test texts.
        num_train: how many are training texts.
        draw: examples of each concept in turn, from a generator.
    """
    train = some_texts(activations, 0, num_train)
    test = some_texts(activations, num_train, activations.num_texts)

    def make() -> Content:
        generator = torch.Generator().manual_seed(work.key["seed"])
        examples = zip(draw("train", generator), draw("test", generator), strict=True)
        concepts = Concepts.fit(train.pooled(), test.pooled(), examples, testbed.mode, generator)
        if testbed.mode == "reference":  # clean accuracies are of other examples than those that chose the epoch
            signs = torch.stack([drawn.signs(test.num_texts) for drawn in draw("test", generator)])
            concepts = replace(concepts, test_signs=signs)
        return Content(vars(concepts))

    return Bench(Concepts(**testbed.artifacts.get(work.kind, work.key, make).tensors), train, test)


def some_texts(activations: TextActivations, first: int, last: int) -> TextActivations:
    """Texts first to last - 1 of them."""
    offsets = activations.offsets[first : last + 1]
    x = activations.x[int(offsets[0]) : int(offsets[-1])]
    return TextActivations(x, offsets - offsets[0], activations.num_special[first:last])
