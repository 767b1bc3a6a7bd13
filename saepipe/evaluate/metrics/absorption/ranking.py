"""Rankings of the latents that indicate a letter: at most ten per letter, the best first."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from saepipe.evaluate.metrics.absorption.letter_probes import train_saebench
from saepipe.evaluate.sae.subject import Subject

MAX_LATENTS = 10


def encode_words(subject: Subject, x: Tensor) -> csr_array:
    """Encodes (num_words, d_in) to sparse (num_words, d_sae) float32 activations of all latents."""
    acts = subject.encode_sparse(x)
    parts = (acts.values, acts.pattern.columns, acts.pattern.row_starts)
    return csr_array(tuple(part.cpu().numpy() for part in parts), shape=(len(x), subject.sae.d_sae))


def rank_by_pursuit(acts: csr_array, labels: np.ndarray) -> list[list[int]]:
    """Ranks latents by orthogonal matching pursuit (Pati et al., 1993) of each letter's labels.

    Each step takes the latent that correlates most with the residual of a least-squares fit (with an intercept) of the
    labels on the latents chosen so far. So a second latent adds to the first, and a latent's scale has no effect. The
    fit is updated by one direction: the part of the latent that is orthogonal to those before it.

    Args:
        acts: (num_words, d_sae).
        labels: (num_words, num_letters) bool.

    Returns:
        Latents of each letter, in the order chosen; fewer than ten if no other latent correlates positively.
    """
    acts = acts.astype(np.float64)
    mean = acts.mean(axis=0)
    deviation = np.sqrt(np.maximum(acts.multiply(acts).mean(axis=0) - mean**2, 0))
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6 * mean)
    residuals = labels - labels.mean(axis=0)  # (num_words, num_letters)
    fitted = [np.empty((0, len(labels))) for _ in residuals.T]  # orthonormal directions, (num_chosen, num_words) each
    chosen: list[list[int]] = [[] for _ in residuals.T]
    columns = acts.T.tocsr()
    for _ in range(MAX_LATENTS):
        gains = (columns @ residuals) * scale[:, None]
        for letter, latents in enumerate(chosen):
            gains[latents, letter] = 0
            best = int(gains[:, letter].argmax())
            if gains[best, letter] <= 1e-6 * len(labels) ** 0.5:
                continue
            latents.append(best)
            direction = _orthogonal(columns[[best]].toarray()[0] - mean[best], fitted[letter])
            residuals[:, letter] -= direction * (direction @ residuals[:, letter])
            fitted[letter] = np.vstack([fitted[letter], direction])
    return chosen


def _orthogonal(vector: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Returns the unit vector of the part of a vector (n,) that is orthogonal to orthonormal directions (num, n).

    There is one: what correlates with a residual of a fit on the directions is not in their span.
    """
    for _ in range(2):  # the second time removes what rounding left (Giraud et al., 2005)
        vector = vector - directions.T @ (directions @ vector)
    return np.asarray(vector / np.linalg.norm(vector))


def rank_by_probe_weight(acts: csr_array, labels: np.ndarray, l1_decay: float, seed: int) -> list[list[int]]:
    """Ranks latents as SAEBench does: by weight in one L1-penalised probe of all letters on all latents.

    The scale of latents affects the ranking, since the penalty is on weights of unscaled activations.

    Args:
        acts: (num_words, d_sae).
        labels: (num_words, num_letters) bool.
        l1_decay: weight of the penalty.
        seed: seed of the training.
    """

    def rows(index: Tensor) -> Tensor:
        return torch.from_numpy(acts[index.numpy()].toarray())

    probe = train_saebench(
        rows, acts.shape[1], torch.from_numpy(labels), seed, batch_size=4096, weight_decay=1e-6, l1_decay=l1_decay
    )
    largest: list[list[int]] = probe.weight.topk(min(MAX_LATENTS, acts.shape[1])).indices.tolist()
    return largest
