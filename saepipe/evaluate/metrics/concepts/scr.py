"""SCR, spurious correlation removal: does a probe that an attribute misled judge by the class again once the
attribute's latents are ablated?

Formulas, masks and differences from the reference (SAEBench 0.6.0): docs/metrics/tpp_and_scr.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.figure_specs import SCR_FIGURES, FigureSpec
from saepipe.evaluate.metrics.base import Measurement
from saepipe.evaluate.metrics.concepts.outcome import Outcome, Score
from saepipe.evaluate.metrics.concepts.perturb import ablate_targets, accuracies, class_differences
from saepipe.evaluate.metrics.concepts.probe_setup import ProbeSetup, prepare_probes
from saepipe.evaluate.metrics.concepts.shared import SIZES, Perturbation
from saepipe.evaluate.metrics.concepts.spurious_pairs import (
    ATTRIBUTE,
    CONCEPT,
    REFERENCE,
    SPURIOUS,
    TOY,
    PairTexts,
    SpuriousPairsConfig,
    pair_texts,
    pair_texts_work,
)
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import LEVEL
from saepipe.evaluate.texts.known_datasets import is_toy
from saepipe.evaluate.texts.pooled import activations_work, text_activations

KEYS = tuple(f"scr_{score}_threshold_{n}" for n in SIZES for score in ("dir1", "metric", "dir2"))

_SMALLEST_GAP = 0.001
"""Accuracy that a misled probe must lack for there to be something to recover; the reference's value."""


@dataclass(frozen=True)
class ProbedPair:
    """Two classes and two attributes, with probes of the class, the attribute, and both where they go together."""

    dataset: str
    title: str
    setup: ProbeSetup
    weights: torch.Tensor
    """(1 + num_resamples, num_test): bootstrap weights of the test texts"""
    clean: np.ndarray
    """(1 + num_resamples, 2): accuracy of the concept's and the attribute's own probe"""
    misled: np.ndarray
    """(1 + num_resamples, 2): accuracy of the spurious probe on the same examples"""


class SCR(Perturbation):
    """Accuracy that a misled probe recovers. Texts, examples and probes are shared by all SAEs."""

    name: Literal["scr"] = "scr"
    datasets: tuple[SpuriousPairsConfig, ...] | None = Field(default=None, min_length=1)
    """null: the toy's two if the model or the text is the toy's, else the reference's two, with four pairs each."""
    eval_type_id: ClassVar[str] = "scr"
    version: ClassVar[int] = 1
    toy_sizes: ClassVar[tuple[int, int]] = (480, 240)
    shown: ClassVar[Mapping[str, FigureSpec]] = SCR_FIGURES

    def works(self, testbed: Testbed) -> list[Work]:
        works = []
        for config in self._datasets(testbed):
            texts = pair_texts_work(config, self.sampling(config.data, testbed))
            works.append(texts)
            for title in map(config.title, config.pairs):
                works += [activations_work(texts, self.context_size, title), self.probes_work(texts, title, testbed)]
        return works

    @torch.no_grad()
    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        outcomes: list[list[Outcome]] = [[] for _ in subjects]
        for config in self._datasets(testbed):
            pairs = self._pairs(config, testbed, progress)
            progress.start(f"scr on {config.data.name}", len(pairs) * len(subjects), "SAEs x pairs")
            try:
                for pair in pairs:
                    for subject, of_subject in zip(subjects, outcomes, strict=True):
                        of_subject.append(self._outcome(subject, pair, testbed.mode))
                        progress.advance(1)
            finally:
                progress.finish()
        return [self.measurement(of_subject, testbed, KEYS) for of_subject in outcomes]

    def _datasets(self, testbed: Testbed) -> Sequence[SpuriousPairsConfig]:
        return self.datasets or (TOY if is_toy(testbed) else REFERENCE)

    def _pairs(self, config: SpuriousPairsConfig, testbed: Testbed, progress: Progress) -> list[ProbedPair]:
        """Prepares all that does not depend on an SAE, or reads it if it is stored."""
        sampling = self.sampling(config.data, testbed)
        work = pair_texts_work(config, sampling)
        return [
            self._pair(config.data.name, pair, work, testbed, progress)
            for pair in pair_texts(testbed, config, sampling, work)
        ]

    def _pair(self, dataset: str, pair: PairTexts, texts: Work, testbed: Testbed, progress: Progress) -> ProbedPair:
        captured = activations_work(texts, self.context_size, pair.title)
        activations = text_activations(testbed, pair.texts, captured, pair.title, progress)
        work = self.probes_work(texts, pair.title, testbed)
        setup = prepare_probes(testbed, work, activations, len(pair.train), pair.examples)
        weights = self.weights(setup.test.num_texts, testbed)
        logits = setup.probes.logits(setup.test.pooled_target())
        clean = accuracies(logits, setup.probes.test_signs, weights)[..., [CONCEPT, ATTRIBUTE]]
        return ProbedPair(dataset, pair.title, setup, weights, clean, _misled_accuracies(logits, setup, weights))

    def _outcome(self, subject: Subject, pair: ProbedPair, mode: Mode) -> Outcome:
        setup, sizes = pair.setup, self.n_values
        differences = class_differences(subject, setup.train, setup.probes.train_signs)
        ablated = ablate_targets(
            subject, setup, differences, targets=(ATTRIBUTE, CONCEPT), sizes=sizes, signed=False, mode=mode
        )
        without_attribute, without_concept = _misled_accuracies(ablated.logits, setup, pair.weights)
        after_ablation = without_attribute[..., CONCEPT], without_concept[..., ATTRIBUTE]
        return Outcome(
            dataset=pair.dataset,
            name=pair.title,
            scores=scr_scores(pair.clean, pair.misled, *after_ablation, sizes, mode),
            llm_scores={"scr_llm_test_accuracy": pair.clean.mean(-1), "scr_llm_misled_accuracy": pair.misled.mean(-1)},
            clean_accuracies=dict(zip(("concept", "attribute"), pair.clean[0].tolist(), strict=True)),
            num_train=setup.num_train,
            num_test=setup.num_test,
            num_ablated=ablated.num_ablated.numpy(),
            latents=dict(zip(("attribute", "concept"), ablated.latents, strict=True)),
        )


def _misled_accuracies(logits: torch.Tensor, setup: ProbeSetup, weights: torch.Tensor) -> np.ndarray:
    """Returns the accuracy of the spurious probe on the concept and on the attribute, (..., 1 + num_resamples, 2).

    Args:
        logits: (..., num_test, 3) of all probes.
        setup: the examples.
        weights: (1 + num_resamples, num_test).
    """
    signs = setup.probes.test_signs[[CONCEPT, ATTRIBUTE]]
    return accuracies(logits[..., [SPURIOUS, SPURIOUS]], signs, weights)


def scr_scores(
    clean: np.ndarray,
    misled: np.ndarray,
    without_attribute: np.ndarray,
    without_concept: np.ndarray,
    sizes: Sequence[int],
    mode: Mode,
) -> dict[str, Score]:
    """Returns the share of a misled probe's missing accuracy that ablating the other concept's latents recovers.

    Args:
        clean: (num_resamples, 2) accuracies of the concept's and the attribute's probe, each on its own examples.
        misled: (num_resamples, 2) accuracies of the spurious probe on the same examples.
        without_attribute: (num_sizes, num_resamples) the same on the concept, the attribute's latents ablated.
        without_concept: (num_sizes, num_resamples) the same on the attribute, the concept's latents ablated.
        sizes: numbers of latents.
        mode: if there is nothing to recover, fixed gives a reason and no score, reference 0.

    Returns:
        By key: dir1 is about the concept, dir2 about the attribute, metric the one on which the probe was worse.
    """
    scores: dict[str, Score] = {}
    directions = {"dir1": (CONCEPT, without_attribute), "dir2": (ATTRIBUTE, without_concept)}
    for name, (question, by_size) in directions.items():
        for n, without in zip(sizes, by_size, strict=True):
            scores[f"scr_{name}_threshold_{n}"] = _recovered(clean[:, question], misled[:, question], without, mode)
    worse = "dir1" if misled[0, CONCEPT] < misled[0, ATTRIBUTE] else "dir2"
    reason = "the spurious probe is as accurate on the concept as on the attribute, so neither direction is harder"
    for n in sizes:
        equal = misled[0, CONCEPT] == misled[0, ATTRIBUTE]
        scores[f"scr_metric_threshold_{n}"] = reason if equal else scores[f"scr_{worse}_threshold_{n}"]
    return scores


def _recovered(clean: np.ndarray, misled: np.ndarray, without: np.ndarray, mode: Mode) -> Score:
    """Returns (num_resamples,), or in mode fixed a reason if other test texts might have left nothing to recover."""
    gap = clean - misled
    if mode == "reference":
        return np.zeros_like(gap) if gap[0] < _SMALLEST_GAP else (without - misled) / gap
    if (gap < _SMALLEST_GAP).mean() > (1 - LEVEL) / 2 or gap[0] < _SMALLEST_GAP:
        return (
            f"the accuracy of the spurious probe is {misled[0]:.3f}, that of the clean one {clean[0]:.3f}: the gap to "
            "recover cannot be told from noise"
        )
    return np.divide(without - misled, gap, out=np.full_like(gap, np.nan), where=gap >= _SMALLEST_GAP)
