"""Stage B: how many latents a letter is split into, and which.

A k-sparse probe is a logistic regression on the k latents that speak most for the letter. Latents are added while
each raises the probe's F1 by more than a threshold; those are the letter's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from threadpoolctl import threadpool_limits

from saepipe.evaluate.metrics.absorption.ranking import pursued, weighed

_NUM_FOLDS = 5


@dataclass(frozen=True)
class Split:
    """The latents of one letter."""

    latents: list[int]
    f1_by_k: list[float]
    """of the probes on 1, 2, ... latents; the last one may have added too little"""
    f1_test: float
    """of the probe on all of `latents`, on test words"""

    @property
    def f1(self) -> float:
        """Of the probe on all of `latents`, on the words that decided how many there are."""
        return self.f1_by_k[len(self.latents) - 1] if self.latents else 0.0


@dataclass(frozen=True)
class Words:
    """Words as one SAE sees them."""

    acts: csr_array
    """(num_words, d_sae) float32"""
    labels: np.ndarray
    """(num_words, num_letters) bool"""


def own_latents(f1_by_k: Iterable[float], jump: float) -> tuple[int, list[float]]:
    """How many latents belong to a letter, and the F1 looked at: the first always, more while F1 rises by over jump."""
    seen: list[float] = []
    for f1 in f1_by_k:
        seen.append(f1)
        if len(seen) > 1 and not f1 > seen[-2] + jump:
            return len(seen) - 1, seen
    return len(seen), seen


def splits(train: Words, stems: Sequence[str], test: Words, jump: float) -> list[Split]:
    """Each letter's own latents.

    How many, train words decide: each is judged by latents and a probe that were chosen without it and its other
    forms, in five folds. So a latent of one word is none of the letter's, and test words have no say.

    Args:
        train: words to choose on.
        stems: (num_words,) theirs.
        test: words to report on.
        jump: by how much F1 must rise.
    """
    # The products are too small for several threads: on a busy machine those wait for each other most of the time.
    with threadpool_limits(1):
        return _splits(train, stems, test, jump)


def _splits(train: Words, stems: Sequence[str], test: Words, jump: float) -> list[Split]:
    fold = dealt(train.labels.argmax(axis=1), stems)
    folds = [
        tuple(Words(train.acts[part], train.labels[part]) for part in (fold != one, fold == one))
        for one in np.unique(fold)
    ]
    chosen = [pursued(fit.acts, fit.labels) for fit, _ in folds]

    def curve(letter: int, num_latents: int) -> Iterator[float]:
        truth = np.concatenate([judged.labels[:, letter] for _, judged in folds])
        for k in range(1, num_latents + 1):
            said = [
                predicted(fit, judged, letter, order[letter][:k])
                for (fit, judged), order in zip(folds, chosen, strict=True)
            ]
            yield float(f1_score(truth, np.concatenate(said), zero_division=0))

    return [
        _split(train, test, letter, latents, own_latents(curve(letter, len(latents)), jump))
        for letter, latents in enumerate(pursued(train.acts, train.labels))
    ]


def dealt(letters: np.ndarray, stems: Sequence[str]) -> np.ndarray:
    """(num_words,) fold of each word: the stems of a letter, in random order, go to one fold after the other.

    (Scikit-learn's folds of this kind refuse letters with fewer words than folds.)
    """
    a_word = {stem: index for index, stem in enumerate(stems)}
    shuffled = Random(0).sample(sorted(a_word), len(a_word))
    in_turn = sorted(shuffled, key=lambda stem: letters[a_word[stem]])
    place = {stem: index % _NUM_FOLDS for index, stem in enumerate(in_turn)}
    return np.array([place[stem] for stem in stems])


def splits_as_reference(train: Words, test: Words, jump: float, l1_decay: float, seed: int) -> list[Split]:
    """SAEBench's: latents by one L1-penalised probe, their number by F1 on test words, activations as they are."""

    def curve(letter: int, latents: Sequence[int]) -> Iterator[float]:
        for k in range(1, len(latents) + 1):
            said = predicted(train, test, letter, latents[:k], scaled=False)
            yield float(f1_score(test.labels[:, letter], said, zero_division=0))

    return [
        _split(train, test, letter, latents, own_latents(curve(letter, latents), jump), scaled=False)
        for letter, latents in enumerate(weighed(train.acts, train.labels, l1_decay, seed))
    ]


def predicted(train: Words, test: Words, letter: int, latents: Sequence[int], *, scaled: bool = True) -> np.ndarray:
    """(num_test,) bool: what a balanced logistic regression on some latents says of test words.

    Args:
        train: words to fit on.
        test: words to judge.
        letter: which label.
        latents: at least one, else no word is of the letter.
        scaled: each latent divided by its standard deviation; else a small one is penalised more than a large one.
    """
    labels = train.labels[:, letter]
    if not latents or labels.all() or not labels.any():
        return np.full(len(test.labels), bool(latents) and bool(labels.all()))
    columns, judged = (words.acts[:, latents].toarray() for words in (train, test))
    if scaled:
        deviation = columns.std(axis=0)
        columns, judged = (part / np.where(deviation > 0, deviation, 1) for part in (columns, judged))
    model = LogisticRegression(max_iter=500, class_weight="balanced").fit(columns, labels)
    found: np.ndarray = model.predict(judged)
    return found


def _split(
    train: Words, test: Words, letter: int, ranked: Sequence[int], own: tuple[int, list[float]], *, scaled: bool = True
) -> Split:
    num_latents, f1_by_k = own
    latents = list(ranked[:num_latents])
    said = predicted(train, test, letter, latents, scaled=scaled)
    return Split(latents, f1_by_k, float(f1_score(test.labels[:, letter], said, zero_division=0)))
