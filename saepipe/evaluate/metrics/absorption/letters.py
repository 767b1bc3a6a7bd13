"""Absorption at each letter of one SAE, which letters are measurable, and averages over letters."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from saepipe.evaluate.metrics.absorption.feature_splits import FeatureSplit
from saepipe.evaluate.metrics.absorption.material import Material
from saepipe.evaluate.metrics.absorption.vocabulary import LETTERS
from saepipe.evaluate.metrics.absorption.word_scores import concatenate, word_scores
from saepipe.evaluate.metrics.base import Figure
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.sae.reconstruction import rows_at_a_time
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import Estimate, two_stage

_NUM_TOP_ABSORBERS = 3
_MAX_ABSORBED_WORDS = 10


@dataclass(frozen=True)
class Gate:
    """Thresholds that a letter must pass to be measurable."""

    min_probe_f1: float
    """F1 of the probe on test words: below it the model does not represent the letter at the hook."""
    min_split_f1: float
    """F1 of the letter's own latents: below it the SAE has none for the letter, and so none that could be absorbed."""
    min_true_positives: int
    """Test words that the probe detects, the sample size of a rate."""

    def model_failure(self, f1_probe: float, num_words: int) -> str | None:
        """Returns why the model does not represent the letter well enough, or None if it does."""
        if not f1_probe > self.min_probe_f1:
            return f"the probe's F1 is not above {self.min_probe_f1:g}: {f1_probe:.2f}"
        if num_words < self.min_true_positives:
            return f"fewer than {self.min_true_positives} true positives: {num_words}"
        return None

    def sae_failure(self, split: FeatureSplit) -> str | None:
        """Returns why the SAE does not represent the letter well enough, or None if it does."""
        if not split.f1 > self.min_split_f1:
            return f"the F1 of its latents is not above {self.min_split_f1:g}: {split.f1:.2f}"
        return None


def _no_words() -> np.ndarray:
    return np.empty(0)


@dataclass(frozen=True)
class LetterResult:
    """Absorption at one letter of one SAE."""

    letter: str
    f1_probe: float
    num_true_positives: int
    """Number of test words that the probe detects."""
    model_failure: str | None
    """Why the model does not represent the letter well enough, whatever the SAE; None if it does."""
    split: FeatureSplit | None = None
    """Latents of the letter; None if they were not searched, because the model does not represent it."""
    sae_failure: str | None = None
    """Why the SAE does not represent the letter well enough; None if it does."""
    fraction: np.ndarray = field(default_factory=_no_words)
    """(num_true_positives,) float32: absorption fraction of each word; (0,) if there is no split"""
    full: np.ndarray = field(default_factory=_no_words)
    """(num_true_positives,) bool: full absorption of each word; (0,) if there is no split"""
    absorbers: np.ndarray = field(default_factory=_no_words)
    """(num_absorbed,) int64: top latent of each word that is absorbed in part or in full"""
    words: Sequence[str] = ()
    """(num_absorbed,): the absorbed words"""

    @property
    def in_model(self) -> bool:
        """True if the model represents the letter well enough, whatever the SAE."""
        return self.model_failure is None

    @property
    def reason(self) -> str | None:
        """Why the letter is not measurable; None if it is."""
        return self.model_failure or self.sae_failure

    @property
    def num_split_latents(self) -> int:
        return len(self.split.latents) if self.split else 0

    @property
    def detail(self) -> dict[str, Any]:
        """Values under SAEBench's keys; null if the letter is not measurable."""
        measurable = self.reason is None
        return {
            "first_letter": self.letter,
            "mean_absorption_fraction": float(self.fraction.mean()) if measurable else None,
            "full_absorption_rate": float(self.full.mean()) if measurable else None,
            "num_full_absorption": int(self.full.sum()) if measurable else None,
            "num_probe_true_positives": self.num_true_positives,
            "num_split_features": self.num_split_latents if measurable else None,
        }

    @property
    def more(self) -> dict[str, Any]:
        """Values for which SAEBench has no key."""
        absorbers = Counter(self.absorbers.tolist()).most_common(_NUM_TOP_ABSORBERS)
        return {
            "first_letter": self.letter,
            "not_measurable": self.reason,
            "f1_probe": self.f1_probe,
            "split_latents": self.split.latents if self.split else [],
            "f1_split": self.split.f1 if self.split else None,
            "f1_split_test": self.split.f1_test if self.split else None,
            "f1_by_k": self.split.f1_by_k if self.split else [],
            "num_probe_true_positives": self.num_true_positives,
            "num_absorbed": None if self.reason else len(self.absorbers),
            "top_absorbers": None if self.reason else [list(pair) for pair in absorbers],
            "absorbed_words": None if self.reason else {str(latent): self._words_of(latent) for latent, _ in absorbers},
        }

    def _words_of(self, latent: int) -> list[str]:
        """Returns some of the words that a latent absorbs."""
        words = [word for word, absorber in zip(self.words, self.absorbers, strict=True) if absorber == latent]
        return words[:_MAX_ABSORBED_WORDS]


def unscored_letters(material: Material, gate: Gate) -> list[LetterResult]:
    """Returns what is known of each letter without any SAE."""
    probes = zip(LETTERS, material.f1.tolist(), material.true_positives.sum(0).tolist(), strict=True)
    return [LetterResult(letter, f1, num_words, gate.model_failure(f1, num_words)) for letter, f1, num_words in probes]


def score_letters(
    subject: Subject, material: Material, splits: Mapping[int, FeatureSplit], gate: Gate, mode: Mode
) -> list[LetterResult]:
    """Runs stage C: scores the SAE on the words that the probe detects.

    Args:
        subject: the SAE.
        material: words, activations and probes.
        splits: own latents by letter's index; letters without are not scored.
        gate: thresholds for a letter.
        mode: definition of the scores.
    """
    W_dec = subject.sae.W_dec
    num_rows = rows_at_a_time(2 * subject.sae.d_sae)  # activations, and their parts of the direction

    results = unscored_letters(material, gate)
    for index, split in splits.items():
        detected = material.true_positives[:, index]
        x, written = (
            rows[detected].to(W_dec.device, torch.float32) for rows in (material.x_scored, material.written_scored)
        )
        direction = material.probe.weight[index].to(W_dec.device)
        scores = concatenate(
            word_scores(explained, subject.encode(part), W_dec, direction, split.latents, mode=mode)
            for part, explained in zip(
                torch.split(x, num_rows), torch.split(_to_explain(subject, x, written, mode), num_rows), strict=True
            )
        )
        absorbed = (scores.fraction > 0) | scores.full
        results[index] = replace(
            results[index],
            split=split,
            sae_failure=gate.sae_failure(split),
            fraction=scores.fraction.cpu().numpy(),
            full=scores.full.cpu().numpy(),
            absorbers=scores.top[absorbed].cpu().numpy(),
            words=[material.test[word].text for word in detected.nonzero().flatten()[absorbed.cpu()].tolist()],
        )
    return results


def _to_explain(subject: Subject, x: torch.Tensor, written: torch.Tensor, mode: Mode) -> torch.Tensor:
    """Returns what the latents have to explain at each word: not what is there without any of them (b_dec, a skip)."""
    return written if mode == "reference" else written - subject.without_latents(x)


def figures(letters: Sequence[LetterResult], seed: int, undefined: str) -> dict[str, Figure]:
    """Returns SAEBench's means and standard deviations over letters; intervals are over letters, then words.

    Args:
        letters: results of the measurable letters.
        seed: seed of the intervals' bootstrap.
        undefined: the reason to give if there are no letters.
    """
    values = _word_values(letters)
    means = {f"mean_{name}": two_stage(groups, seed, undefined=undefined) for name, groups in values.items()}
    spreads = {f"std_dev_{name}": _spread(groups, undefined) for name, groups in values.items()}
    return {**means, **spreads}


def means_by_letter(letters: Sequence[LetterResult]) -> dict[str, dict[str, float]]:
    """Returns the mean of each letter, per figure that is a mean over letters."""
    return {
        f"mean_{name}": {letter.letter: float(group.mean()) for letter, group in zip(letters, groups, strict=True)}
        for name, groups in _word_values(letters).items()
    }


def _word_values(letters: Sequence[LetterResult]) -> dict[str, list[np.ndarray]]:
    """Returns one group of word values per letter, by figure."""
    return {
        "absorption_fraction_score": [letter.fraction for letter in letters],
        "full_absorption_score": [letter.full for letter in letters],
        "num_split_features": [np.array([letter.num_split_latents]) for letter in letters],
    }


def _spread(groups: Sequence[np.ndarray], undefined: str) -> Estimate:
    """Returns the sample standard deviation of the groups' means."""
    if len(groups) < 2:
        return Estimate(None, reason="one letter has no spread" if groups else undefined)
    return Estimate(statistics.stdev(float(group.mean()) for group in groups))
