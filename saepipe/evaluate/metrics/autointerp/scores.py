"""Scores of an explanation: how well a model that knows it tells excerpts apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from saepipe.evaluate.metrics.autointerp.chat import Answer
from saepipe.evaluate.metrics.autointerp.prompts import Test, chosen_numbers
from saepipe.evaluate.stats.intervals import Estimate, ratio


@dataclass(frozen=True)
class Score:
    """Outcome of one latent's questions of one kind."""

    true_positives: int
    positives: int
    true_negatives: int
    negatives: int
    num_unreadable: int
    """Answers that could not be read; their excerpts do not count"""

    @classmethod
    def of(cls, truth: np.ndarray, said: np.ndarray, num_unreadable: int) -> Self:
        """Counts right answers: `truth` and `said` are (num_excerpts,) bool."""
        return cls(
            true_positives=int((truth & said).sum()),
            positives=int(truth.sum()),
            true_negatives=int((~truth & ~said).sum()),
            negatives=int((~truth).sum()),
            num_unreadable=num_unreadable,
        )

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of the shares of right answers among true and among false excerpts; 0.5 is guessing.

        None if one kind of excerpt has no answer.
        """
        if not (self.positives and self.negatives):
            return None
        return (self.true_positives / self.positives + self.true_negatives / self.negatives) / 2


def score(tests: Sequence[Test], answers: Sequence[Answer]) -> Score:
    """Scores the answers to a latent's questions."""
    chosen = [chosen_numbers(answer.text, len(test.truth)) for test, answer in zip(tests, answers, strict=True)]
    read = [(test.truth, numbers) for test, numbers in zip(tests, chosen, strict=True) if numbers is not None]
    truth = np.concatenate([np.zeros(0, bool), *(each for each, _ in read)])
    said = np.concatenate([np.zeros(0, bool), *(each for _, each in read)])
    return Score.of(truth, said, len(tests) - len(read))


def mean_score(scores: Sequence[Score], undefined: str) -> Estimate:
    """Returns the mean over latents; the interval is for the sampling of latents."""
    values = np.array([each.balanced_accuracy for each in scores if each.balanced_accuracy is not None])
    return ratio(values, np.ones_like(values), undefined)
