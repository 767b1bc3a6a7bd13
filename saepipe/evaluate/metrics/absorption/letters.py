"""What absorption found at each letter of one SAE, and what of it may be averaged."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from saepipe.evaluate.metrics.absorption.feature_splits import Split
from saepipe.evaluate.metrics.absorption.material import Material
from saepipe.evaluate.metrics.absorption.vocabulary import LETTERS
from saepipe.evaluate.metrics.absorption.word_scores import joined, word_scores
from saepipe.evaluate.metrics.base import Figure
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.sae.reconstruction import rows_at_a_time
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import Estimate, two_stage

_TOP = 3
_NAMED_WORDS = 10


@dataclass(frozen=True)
class Gate:
    """What a letter must show before a figure of it means anything."""

    min_probe_f1: float
    """The probe's, on test words: below it the model does not tell the letter at the hook."""
    min_split_f1: float
    """The letter's own latents': below it the SAE has no latents for the letter, and none that could be absorbed."""
    min_true_positives: int
    """Test words that the probe finds, for a rate."""

    def of_model(self, f1_probe: float, num_words: int) -> str | None:
        """Why the model does not show the letter well enough; None where it does."""
        if not f1_probe > self.min_probe_f1:
            return f"the probe's F1 is not above {self.min_probe_f1:g}: {f1_probe:.2f}"
        if num_words < self.min_true_positives:
            return f"fewer than {self.min_true_positives} true positives: {num_words}"
        return None

    def of_sae(self, split: Split) -> str | None:
        """Why the SAE does not."""
        if not split.f1 > self.min_split_f1:
            return f"the F1 of its latents is not above {self.min_split_f1:g}: {split.f1:.2f}"
        return None


@dataclass(frozen=True)
class Letter:
    """One letter of one SAE."""

    letter: str
    f1_probe: float
    split: Split
    fraction: np.ndarray
    """(num_true_positives,) float32"""
    full: np.ndarray
    """(num_true_positives,) bool"""
    absorbers: np.ndarray
    """(num_absorbed,) int64: the top latent of each word that is absorbed in part or in full"""
    words: Sequence[str]
    """(num_absorbed,): those words"""
    in_model: bool
    """Whether the model shows it well enough, whatever the SAE does."""
    reason: str | None
    """Why it is not measurable."""

    @property
    def detail(self) -> dict[str, Any]:
        """SAEBench's keys; null where the letter is not measurable."""
        shown = self.reason is None
        return {
            "first_letter": self.letter,
            "mean_absorption_fraction": float(self.fraction.mean()) if shown else None,
            "full_absorption_rate": float(self.full.mean()) if shown else None,
            "num_full_absorption": int(self.full.sum()) if shown else None,
            "num_probe_true_positives": len(self.full),
            "num_split_features": len(self.split.latents) if shown else None,
        }

    @property
    def more(self) -> dict[str, Any]:
        """What SAEBench has no key for."""
        absorbers = Counter(self.absorbers.tolist()).most_common(_TOP)
        return {
            "first_letter": self.letter,
            "not_measurable": self.reason,
            "f1_probe": self.f1_probe,
            "split_latents": self.split.latents,
            "f1_split": self.split.f1,
            "f1_split_test": self.split.f1_test,
            "f1_by_k": self.split.f1_by_k,
            "num_probe_true_positives": len(self.full),
            "num_absorbed": None if self.reason else len(self.absorbers),
            "top_absorbers": None if self.reason else [list(pair) for pair in absorbers],
            "absorbed_words": None if self.reason else {str(latent): self._words(latent) for latent, _ in absorbers},
        }

    def _words(self, absorber: int) -> list[str]:
        """Some of those that a latent absorbs."""
        found = [word for word, one in zip(self.words, self.absorbers, strict=True) if one == absorber]
        return found[:_NAMED_WORDS]


def score(subject: Subject, material: Material, splits: Sequence[Split], gate: Gate, mode: Mode) -> list[Letter]:
    """Stage C: every letter's words that the probe finds, through the SAE."""
    W_dec = subject.sae.W_dec
    none = torch.zeros(1, subject.sae.d_sae, device=W_dec.device)
    # What is there without any latent is not the latents' to make up, so its projection is no one's to carry.
    offset = torch.zeros_like(W_dec[0]) if mode == "reference" else subject.sae.decode(none)[0]
    words_at_once = rows_at_a_time(2 * subject.sae.d_sae)  # activations, and their parts of the direction
    found = []
    for index, split in enumerate(splits):
        detected = material.detected[:, index]
        x = material.x_scored[detected].to(W_dec.device, torch.float32)
        direction = material.probe.weight[index].to(W_dec.device)
        scores = joined(
            word_scores(part - offset, subject.encode(part), W_dec, direction, split.latents, mode=mode)
            for part in torch.split(x, words_at_once)
        )
        absorbed = (scores.fraction > 0) | scores.full
        f1_probe = float(material.f1[index])
        missing = gate.of_model(f1_probe, len(x))
        found.append(
            Letter(
                letter=LETTERS[index],
                f1_probe=f1_probe,
                split=split,
                fraction=scores.fraction.cpu().numpy(),
                full=scores.full.cpu().numpy(),
                absorbers=scores.top[absorbed].cpu().numpy(),
                words=[material.test[number].text for number in detected.nonzero().flatten()[absorbed.cpu()].tolist()],
                in_model=missing is None,
                reason=missing or gate.of_sae(split),
            )
        )
    return found


def figures(letters: Sequence[Letter], seed: int, why_none: str) -> dict[str, Figure]:
    """SAEBench's mean and spread over letters; intervals over letters, then words.

    Args:
        letters: the measurable ones.
        seed: of the intervals.
        why_none: the reason to give where there are none.
    """
    values = _values(letters)
    means = {f"mean_{name}": two_stage(groups, seed, undefined=why_none) for name, groups in values.items()}
    spreads = {f"std_dev_{name}": _spread(groups, why_none) for name, groups in values.items()}
    return {**means, **spreads}


def by_letter(letters: Sequence[Letter]) -> dict[str, dict[str, float]]:
    """Of each figure that is a mean over letters, what it is the mean of."""
    return {
        f"mean_{name}": {letter.letter: float(group.mean()) for letter, group in zip(letters, groups, strict=True)}
        for name, groups in _values(letters).items()
    }


def _values(letters: Sequence[Letter]) -> dict[str, list[np.ndarray]]:
    """A group of words each letter, by figure."""
    return {
        "absorption_fraction_score": [letter.fraction for letter in letters],
        "full_absorption_score": [letter.full for letter in letters],
        "num_split_features": [np.array([len(letter.split.latents)]) for letter in letters],
    }


def _spread(groups: Sequence[np.ndarray], why_none: str) -> Estimate:
    """The sample standard deviation of the groups' means."""
    if len(groups) < 2:
        return Estimate(None, reason="one letter has no spread" if groups else why_none)
    return Estimate(statistics.stdev(float(group.mean()) for group in groups))
