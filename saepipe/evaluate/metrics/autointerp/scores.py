"""Scores of an explanation: how well a model that knows it tells excerpts apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saepipe.evaluate.metrics.autointerp.chat import Answer
from saepipe.evaluate.metrics.autointerp.prompts import Test, chosen_numbers


@dataclass(frozen=True)
class Score:
    """Outcome of one latent's questions of one kind."""

    balanced_accuracy: float | None
    """Mean of the shares of right answers among true and among false excerpts; 0.5 is guessing. None without answers"""
    num_unreadable: int
    """Answers that are no list of numbers; their excerpts do not count"""


def score(tests: Sequence[Test], answers: Sequence[Answer]) -> Score:
    """Scores the answers to a latent's questions."""
    chosen = [chosen_numbers(answer.text, len(test.truth)) for test, answer in zip(tests, answers, strict=True)]
    read = [(test.truth, numbers) for test, numbers in zip(tests, chosen, strict=True) if numbers is not None]
    num_unreadable = len(tests) - len(read)
    truth = np.concatenate([np.zeros(0, bool), *(each for each, _ in read)])
    said = np.concatenate([np.zeros(0, bool), *(each for _, each in read)])
    if truth.all() or not truth.any():
        return Score(None, num_unreadable)
    return Score(float((said[truth].mean() + (~said[~truth]).mean()) / 2), num_unreadable)
