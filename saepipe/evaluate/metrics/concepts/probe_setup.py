"""Probes of concepts with their examples and texts: work that depends on the model alone, the same for every SAE."""

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
from saepipe.evaluate.texts.binary_questions import BinaryExamples
from saepipe.evaluate.texts.config import Part
from saepipe.evaluate.texts.pooled import TextActivations

TRAINING = Training(lr=1e-3, batch_size=16, epochs=20, patience=20, l1=1e-3)
"""Training of the probes in mode reference (SAEBench 0.6.0)."""

_VERSION = 1
"""Increased when equal settings would give other probes or examples than those stored."""

_VALIDATION = 5
"""One training example in this many chooses the penalty of a probe in mode fixed."""


@dataclass(frozen=True)
class ConceptProbes:
    """Probes of the concepts of a dataset, or of a pair of its classes, with their examples."""

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
        examples: Iterable[tuple[BinaryExamples, BinaryExamples]],
        mode: Mode,
        generator: torch.Generator,
    ) -> ConceptProbes:
        """Fits one probe per concept.

        Args:
            train_pooled: (num_train, d_in).
            test_pooled: (num_test, d_in).
            examples: training and test examples per concept; they may be sampled lazily from `generator`, as the
                reference does between the trainings.
            mode: fixed: L1-penalised logistic regression, its penalty chosen on the last of the training examples;
                reference: SAEBench's training, the best epoch chosen on the test examples.
            generator: random numbers of SAEBench's training.
        """
        probes, train_signs, test_signs = [], [], []
        for train_examples, test_examples in examples:
            x, y = train_pooled[train_examples.rows], train_examples.positive
            if mode == "reference":
                x_test, y_test = test_pooled[test_examples.rows], test_examples.positive
                probes.append(train(x, y, x_test, y_test, TRAINING, generator))
            else:
                probes.append(fit_sparse(x, y, len(y) // _VALIDATION))
            train_signs.append(train_examples.signs(len(train_pooled)))
            test_signs.append(test_examples.signs(len(test_pooled)))
        return cls(
            torch.stack(train_signs),
            torch.stack(test_signs),
            torch.stack([probe.weight.float() for probe in probes]),
            torch.tensor([probe.bias for probe in probes]),
        )

    def logits(self, pooled: Tensor) -> Tensor:
        """Returns (num_texts, num_concepts) for pooled activations (num_texts, d_in); above 0 is positive."""
        return pooled @ self.directions.T + self.intercepts


@dataclass(frozen=True)
class ProbeSetup:
    """Probes and activations with which SAEs are measured on a dataset, or on a pair of its classes."""

    probes: ConceptProbes
    train: TextActivations
    test: TextActivations

    @property
    def num_train(self) -> int:
        """Training examples of the question with the fewest."""
        return int((self.probes.train_signs != 0).sum(1).min())

    @property
    def num_test(self) -> int:
        return int((self.probes.test_signs != 0).sum(1).min())


def probes_work(texts: Work, subset: str, context_size: int, seed: int, mode: Mode) -> Work:
    """Returns the work that decides the probes and their examples, from the work of the texts and the texts used."""
    key = {"texts": {"kind": texts.kind, **texts.key}, "which": subset, "seed": seed, "mode": mode}
    probe = {"strengths": list(STRENGTHS)} if mode == "fixed" else asdict(TRAINING)
    return Work("concepts", {**key, "context_size": context_size, "probe": probe, "version": _VERSION})


def prepare_probes(
    testbed: Testbed,
    work: Work,
    activations: TextActivations,
    num_train: int,
    sample_examples: Callable[[Part, torch.Generator], Iterable[BinaryExamples]],
) -> ProbeSetup:
    """Samples the examples and trains the probes, or reads both from their artifact.

    Args:
        testbed: its artifacts and its mode are used.
        work: see `probes_work`.
        activations: activations of the training texts, then of the test texts.
        num_train: number of training texts.
        sample_examples: yields the examples of each concept in turn, sampled with a generator.
    """
    train = activations.texts(0, num_train)
    test = activations.texts(num_train, activations.num_texts)

    def make() -> Content:
        generator = torch.Generator().manual_seed(work.key["seed"])
        examples = zip(sample_examples("train", generator), sample_examples("test", generator), strict=True)
        probes = ConceptProbes.fit(train.pooled_target(), test.pooled_target(), examples, testbed.mode, generator)
        if testbed.mode == "reference":  # clean accuracies are on other examples than those that chose the epoch
            signs = torch.stack([sampled.signs(test.num_texts) for sampled in sample_examples("test", generator)])
            probes = replace(probes, test_signs=signs)
        return Content(vars(probes))

    return ProbeSetup(ConceptProbes(**testbed.kept_work.get(work.kind, work.key, make).tensors), train, test)
