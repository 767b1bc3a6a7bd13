"""Stage B: the latents that a letter is split into, called the letter's own latents.

A k-sparse probe is a logistic regression on the k latents that rank highest for the letter. Latents are added as long
as each raises the probe's F1 by more than a threshold; these are the letter's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits

from saepipe.evaluate.metrics.absorption.ranking import rank_by_probe_weight, rank_by_pursuit
from saepipe.evaluate.stats.logistic import fit_logistic

_NUM_FOLDS = 5


@dataclass(frozen=True)
class FeatureSplit:
    """The own latents of one letter."""

    latents: list[int]
    f1_by_k: list[float]
    """F1 of the probes on 1, 2, ... latents; the last latent may have added too little"""
    f1_test: float
    """F1 of the probe on all of `latents`, on test words"""

    @property
    def f1(self) -> float:
        """F1 of the probe on all of `latents`, on the words that decided their number."""
        return self.f1_by_k[len(self.latents) - 1] if self.latents else 0.0


@dataclass(frozen=True)
class WordActs:
    """Latent activations of one SAE on words, and the words' letters."""

    acts: csr_array
    """(num_words, d_sae) float32"""
    labels: np.ndarray
    """(num_words, num_letters) bool"""

    def of(self, latents: Sequence[int]) -> np.ndarray:
        """Returns the activations of some latents, (num_words, num_latents)."""
        return np.asarray(self.acts[:, list(latents)].toarray())


def num_own_latents(f1_by_k: Iterable[float], jump: float) -> tuple[int, list[float]]:
    """Returns how many latents belong to a letter (one, then more while F1 rises by over jump), and the F1 computed."""
    computed: list[float] = []
    for f1 in f1_by_k:
        computed.append(f1)
        if len(computed) > 1 and not f1 > computed[-2] + jump:
            return len(computed) - 1, computed
    return len(computed), computed


def find_splits(
    train: WordActs, stems: Sequence[str], test: WordActs, jump: float, letters: Sequence[int]
) -> list[FeatureSplit]:
    """Returns the own latents of each of `letters`, in their order.

    Train words decide their number, in five folds: each word is judged by latents and a probe chosen without the word
    and its other forms. So a latent of a single word is not one of the letter's, and test words have no influence.

    Args:
        train: words to choose on.
        stems: (num_words,) stems of the train words.
        test: words to report on.
        jump: by how much F1 must rise.
        letters: columns of the labels.
    """
    # The products are too small for several threads, which on a busy machine mostly wait for each other.
    with threadpool_limits(1):
        return _find_splits(train, stems, test, jump, letters)


def _find_splits(
    train: WordActs, stems: Sequence[str], test: WordActs, jump: float, letters: Sequence[int]
) -> list[FeatureSplit]:
    fold = assign_folds(train.labels.argmax(axis=1), stems)
    folds = [
        tuple(WordActs(train.acts[part], train.labels[part]) for part in (fold != index, fold == index))
        for index in np.unique(fold)
    ]
    rankings = [_rank(fold_train, letters) for fold_train, _ in folds]

    def f1_by_k(letter: int, num_latents: int) -> Iterator[float]:
        truth = np.concatenate([fold_test.labels[:, letter] for _, fold_test in folds])
        ranked = [
            (fold_train.of(ranking[letter]), fold_train.labels[:, letter], fold_test.of(ranking[letter]))
            for (fold_train, fold_test), ranking in zip(folds, rankings, strict=True)
        ]
        for k in range(1, num_latents + 1):
            predictions = [predict(x_train[:, :k], y_train, x_test[:, :k]) for x_train, y_train, x_test in ranked]
            yield _f1(truth, np.concatenate(predictions))

    return [
        _split(train, test, letter, latents, num_own_latents(f1_by_k(letter, len(latents)), jump), scaled=True)
        for letter, latents in _rank(train, letters).items()
    ]


def _rank(words: WordActs, letters: Sequence[int]) -> dict[int, list[int]]:
    """Returns the ranked latents by letter."""
    return dict(zip(letters, rank_by_pursuit(words.acts, words.labels[:, letters]), strict=True))


def assign_folds(letters: np.ndarray, stems: Sequence[str]) -> np.ndarray:
    """Returns the fold of each word, (num_words,): shuffled stems of a letter are dealt to the folds in turn.

    (Scikit-learn's folds of this kind refuse letters with fewer words than folds.)
    """
    word_of_stem = {stem: index for index, stem in enumerate(stems)}
    shuffled = Random(0).sample(sorted(word_of_stem), len(word_of_stem))
    by_letter = sorted(shuffled, key=lambda stem: letters[word_of_stem[stem]])
    fold_of_stem = {stem: index % _NUM_FOLDS for index, stem in enumerate(by_letter)}
    return np.array([fold_of_stem[stem] for stem in stems])


def reference_splits(train: WordActs, test: WordActs, jump: float, l1_decay: float, seed: int) -> list[FeatureSplit]:
    """Returns SAEBench's splits: one L1-penalised probe ranks, F1 on test words decides, activations are unscaled."""

    def f1_by_k(letter: int, latents: Sequence[int]) -> Iterator[float]:
        x_train, x_test, labels = train.of(latents), test.of(latents), train.labels[:, letter]
        for k in range(1, len(latents) + 1):
            yield _f1(test.labels[:, letter], predict(x_train[:, :k], labels, x_test[:, :k], scaled=False))

    return [
        _split(train, test, letter, latents, num_own_latents(f1_by_k(letter, latents), jump), scaled=False)
        for letter, latents in enumerate(rank_by_probe_weight(train.acts, train.labels, l1_decay, seed))
    ]


def predict(x_train: np.ndarray, labels: np.ndarray, x_test: np.ndarray, *, scaled: bool = True) -> np.ndarray:
    """Returns predictions for test words by a balanced logistic regression on some latents, (num_test,) bool.

    Args:
        x_train: (num_train, num_latents) activations; without a latent, no word is predicted to have the letter.
        labels: (num_train,) bool.
        x_test: (num_test, num_latents).
        scaled: whether to divide each latent by its standard deviation; if not, small latents are penalised more.
    """
    has_latents = x_train.shape[1] > 0
    if not has_latents or labels.all() or not labels.any():
        return np.full(len(x_test), has_latents and bool(labels.all()))
    if scaled:
        deviation = x_train.std(axis=0)
        x_train, x_test = (x / np.where(deviation > 0, deviation, 1) for x in (x_train, x_test))
    weight, bias = fit_logistic(x_train, labels, balanced=True, max_iter=500)
    predictions: np.ndarray = x_test @ weight + bias > 0
    return predictions


def _f1(truth: np.ndarray, predictions: np.ndarray) -> float:
    """Returns 2 TP / (2 TP + FP + FN) of two bool arrays; 0 if neither has a True."""
    return 2 * float((truth & predictions).sum()) / max(1, int(truth.sum() + predictions.sum()))


def _split(
    train: WordActs, test: WordActs, letter: int, ranking: Sequence[int], own: tuple[int, list[float]], *, scaled: bool
) -> FeatureSplit:
    num_latents, f1_by_k = own
    latents = list(ranking[:num_latents])
    predictions = predict(train.of(latents), train.labels[:, letter], test.of(latents), scaled=scaled)
    return FeatureSplit(latents, f1_by_k, _f1(test.labels[:, letter], predictions))
