"""SCR, spurious correlation removal: do the latents of an attribute carry it, so that a probe that was misled by it
judges by the class again without them?

Formulas, masks and where the reference (SAEBench 0.6.0) differs: docs/metrics/tpp_and_scr.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.base import Measurement, Shown
from saepipe.evaluate.metrics.concepts.outcome import Outcome, Value
from saepipe.evaluate.metrics.concepts.perturb import accuracies, class_differences, without_latents
from saepipe.evaluate.metrics.concepts.probe_setup import Bench, prepare
from saepipe.evaluate.metrics.concepts.shared import NOISY, SIZES, Perturbation
from saepipe.evaluate.metrics.concepts.spurious_pairs import (
    ATTRIBUTE,
    CONCEPT,
    REFERENCE,
    SPURIOUS,
    TOY,
    PairTexts,
    SpuriousConfig,
    spurious_texts,
    texts_work,
)
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import LEVEL
from saepipe.evaluate.texts.known_datasets import is_toy
from saepipe.evaluate.texts.pooled import activations_work, text_activations

WHAT = ("dir1", "metric", "dir2")
KEYS = tuple(f"scr_{what}_threshold_{n}" for n in SIZES for what in WHAT)

_SMALLEST_GAP = 0.001
"""Accuracy that a misled probe must lack, for there to be something to recover; the reference's."""


@dataclass(frozen=True)
class Pair:
    """Two classes and two attributes, and probes of the class, of the attribute, and of both where they go together."""

    dataset: str
    title: str
    bench: Bench
    weights: torch.Tensor
    """(1 + draws, num_test): of the test texts in the bootstrap"""
    clean: np.ndarray
    """(1 + draws, 2): accuracy of the concept's and of the attribute's own probe"""
    misled: np.ndarray
    """(1 + draws, 2): of the spurious probe on the same examples"""


class SCR(Perturbation):
    """Pairs outside, SAEs inside: texts, examples and probes are the model's work, done once for all."""

    name: Literal["scr"] = "scr"
    datasets: tuple[SpuriousConfig, ...] | None = Field(default=None, min_length=1)
    """null: the toy's where the model or the text is the toy's, else the reference's two, of four pairs each."""
    eval_type_id: ClassVar[str] = "scr"
    version: ClassVar[int] = 1
    toy_sizes: ClassVar[tuple[int, int]] = (480, 240)
    shown: ClassVar[Mapping[str, Shown]] = {
        "scr_metric_threshold_10": Shown("SCR, 10 latents", "higher", noisy=NOISY),
        "scr_metric_threshold_50": Shown("SCR, 50 latents", "higher", noisy=NOISY),
        "scr_llm_test_accuracy": Shown("SCR, clean probes", of_model=True),
        "scr_llm_misled_accuracy": Shown("SCR, misled probes", of_model=True),
    }

    def works(self, testbed: Testbed) -> list[Work]:
        works = []
        for config in self._datasets(testbed):
            drawn = texts_work(config, self.draw_of(config.data, testbed))
            works.append(drawn)
            for title in map(config.title, config.pairs):
                works += [activations_work(drawn, self.context_size, title), self.concepts_work(drawn, title, testbed)]
        return works

    @torch.no_grad()
    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        outcomes: list[list[Outcome]] = [[] for _ in subjects]
        for config in self._datasets(testbed):
            pairs = self._pairs(config, testbed, progress)
            progress.start(f"scr on {config.data.name}", len(pairs) * len(subjects), "SAEs x pairs")
            try:
                for pair in pairs:
                    for subject, mine in zip(subjects, outcomes, strict=True):
                        mine.append(self._outcome(subject, pair, testbed.mode))
                        progress.advance(1)
            finally:
                progress.finish()
        return [self.measurement(mine, testbed, KEYS) for mine in outcomes]

    def _datasets(self, testbed: Testbed) -> Sequence[SpuriousConfig]:
        return self.datasets or (TOY if is_toy(testbed) else REFERENCE)

    def _pairs(self, config: SpuriousConfig, testbed: Testbed, progress: Progress) -> list[Pair]:
        """What does not depend on an SAE: stored, or made and stored."""
        how = self.draw_of(config.data, testbed)
        drawn = texts_work(config, how)
        return [
            self._pair(config.data.name, pair, drawn, testbed, progress)
            for pair in spurious_texts(testbed, config, how, drawn)
        ]

    def _pair(self, dataset: str, pair: PairTexts, drawn: Work, testbed: Testbed, progress: Progress) -> Pair:
        captured = activations_work(drawn, self.context_size, pair.title)
        activations = text_activations(testbed, pair.texts, captured, pair.title, progress)
        work = self.concepts_work(drawn, pair.title, testbed)
        bench = prepare(testbed, work, activations, len(pair.train), pair.examples)
        weights = self.weights(bench.test.num_texts, testbed)
        logits = bench.concepts.logits(bench.test.pooled())
        clean = accuracies(logits, bench.concepts.test_signs, weights)[..., [CONCEPT, ATTRIBUTE]]
        return Pair(dataset, pair.title, bench, weights, clean, _misled(logits, bench, weights))

    def _outcome(self, subject: Subject, pair: Pair, mode: Mode) -> Outcome:
        bench, sizes = pair.bench, self.n_values
        differences = class_differences(subject, bench.train, bench.concepts.train_signs)
        without = without_latents(
            subject, bench, differences, targets=(ATTRIBUTE, CONCEPT), sizes=sizes, signed=False, mode=mode
        )
        of_attribute, of_concept = _misled(without.logits, bench, pair.weights)
        values = scr(pair.clean, pair.misled, of_attribute[..., CONCEPT], of_concept[..., ATTRIBUTE], sizes, mode)
        return Outcome(
            dataset=pair.dataset,
            name=pair.title,
            values=values,
            of_model={
                "scr_llm_test_accuracy": pair.clean.mean(-1),
                "scr_llm_misled_accuracy": pair.misled.mean(-1),
            },
            clean=dict(zip(("concept", "attribute"), pair.clean[0].tolist(), strict=True)),
            num_train=bench.num_train,
            num_test=bench.num_test,
            num_off=without.num_off.numpy(),
            latents=dict(zip(("attribute", "concept"), without.latents, strict=True)),
        )


def _misled(logits: torch.Tensor, bench: Bench, weights: torch.Tensor) -> np.ndarray:
    """(..., 1 + draws, 2): accuracy of the spurious probe about the concept and about the attribute.

    Args:
        logits: (..., num_test, 3) of all probes.
        bench: the examples.
        weights: (1 + draws, num_test).
    """
    signs = bench.concepts.test_signs[[CONCEPT, ATTRIBUTE]]
    return accuracies(logits[..., [SPURIOUS, SPURIOUS]], signs, weights)


def scr(
    clean: np.ndarray,
    misled: np.ndarray,
    without_attribute: np.ndarray,
    without_concept: np.ndarray,
    sizes: Sequence[int],
    mode: Mode,
) -> dict[str, Value]:
    """The share of the accuracy that a misled probe lacks which it gets back when the other concept's latents are off.

    Args:
        clean: (draws, 2) accuracies of the probes of the concept and of the attribute, each on its own examples.
        misled: (draws, 2) of the spurious probe on the same.
        without_attribute: (num_sizes, draws) of the spurious probe about the concept, the attribute's latents off.
        without_concept: (num_sizes, draws) of it about the attribute, the concept's latents off.
        sizes: how many latents.
        mode: what becomes of a score without anything to recover, and no score: a reason (fixed), or 0 (reference).

    Returns:
        By key: dir1 is about the concept, dir2 about the attribute, metric the one at which the probe was worse.
    """
    values: dict[str, Value] = {}
    about = {"dir1": (CONCEPT, without_attribute), "dir2": (ATTRIBUTE, without_concept)}
    for name, (which, without) in about.items():
        for n, found in zip(sizes, without, strict=True):
            values[f"scr_{name}_threshold_{n}"] = _recovered(clean[:, which], misled[:, which], found, mode)
    worse = "dir1" if misled[0, CONCEPT] < misled[0, ATTRIBUTE] else "dir2"
    equal = "the spurious probe is as good at the concept as at the attribute, so that neither direction is the harder"
    for n in sizes:
        same = misled[0, CONCEPT] == misled[0, ATTRIBUTE]
        values[f"scr_metric_threshold_{n}"] = equal if same else values[f"scr_{worse}_threshold_{n}"]
    return values


def _recovered(clean: np.ndarray, misled: np.ndarray, without: np.ndarray, mode: Mode) -> Value:
    """(draws,). There is none, in mode fixed, where other test texts might have shown nothing to recover."""
    gap = clean - misled
    if mode == "reference":
        return np.zeros_like(gap) if gap[0] < _SMALLEST_GAP else (without - misled) / gap
    if (gap < _SMALLEST_GAP).mean() > (1 - LEVEL) / 2 or gap[0] < _SMALLEST_GAP:
        return (
            f"the spurious probe is right of {misled[0]:.3f}, the clean one of {clean[0]:.3f}: what there is to "
            "recover is not told from noise"
        )
    return np.divide(without - misled, gap, out=np.full_like(gap, np.nan), where=gap >= _SMALLEST_GAP)
