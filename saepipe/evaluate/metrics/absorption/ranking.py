"""Which latents speak for a letter: at most ten each, the best first."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from saepipe.evaluate.metrics.absorption.letter_probes import train
from saepipe.evaluate.sae.reconstruction import rows_at_a_time
from saepipe.evaluate.sae.subject import Subject

MAX_LATENTS = 10


def word_latents(subject: Subject, x: Tensor) -> csr_array:
    """(num_words, d_sae) float32 activations of all latents, kept sparse, from (num_words, d_in)."""
    size = rows_at_a_time(subject.sae.d_sae)
    return vstack([csr_array(subject.encode(part).cpu().numpy()) for part in torch.split(x, size)], format="csr")


def pursued(acts: csr_array, labels: np.ndarray) -> list[list[int]]:
    """Orthogonal matching pursuit (Pati et al., 1993) of each letter's labels, by latents that fire for it.

    Each step takes the latent that correlates most with what the chosen ones leave of the labels, in a least-squares
    fit with an intercept. So a second latent is one that adds to the first, and the scale of a latent has no say.

    Args:
        acts: (num_words, d_sae).
        labels: (num_words, num_letters) bool.

    Returns:
        Latents of each letter, in the order chosen; fewer than ten where no other correlates positively.
    """
    acts = acts.astype(np.float64)
    mean = acts.mean(axis=0)
    deviation = np.sqrt(np.maximum(acts.multiply(acts).mean(axis=0) - mean**2, 0))
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6 * mean)
    residuals = labels - labels.mean(axis=0)  # (num_words, num_letters)
    chosen: list[list[int]] = [[] for _ in residuals.T]
    columns = acts.tocsc()
    for _ in range(MAX_LATENTS):
        gains = (acts.T @ residuals) * scale[:, None]
        for letter, latents in enumerate(chosen):
            gains[latents, letter] = 0
            best = int(gains[:, letter].argmax())
            if gains[best, letter] <= 1e-6 * len(labels) ** 0.5:
                continue
            latents.append(best)
            design = np.column_stack([np.ones(len(labels)), columns[:, latents].toarray()])
            fitted = np.linalg.lstsq(design, labels[:, letter].astype(np.float64))[0]
            residuals[:, letter] = labels[:, letter] - design @ fitted
    return chosen


def weighed(acts: csr_array, labels: np.ndarray, l1_decay: float, seed: int) -> list[list[int]]:
    """SAEBench's ranking: the largest weights of one L1-penalised probe of all letters on all latents.

    Which latents are large decides as well, since its penalty is on weights of unscaled activations.

    Args:
        acts: (num_words, d_sae).
        labels: (num_words, num_letters) bool.
        l1_decay: of the penalty.
        seed: of the training.
    """

    def rows(index: Tensor) -> Tensor:
        return torch.from_numpy(acts[index.numpy()].toarray())

    probe = train(
        rows, acts.shape[1], torch.from_numpy(labels), seed, batch_size=4096, weight_decay=1e-6, l1_decay=l1_decay
    )
    largest: list[list[int]] = probe.weight.topk(min(MAX_LATENTS, acts.shape[1])).indices.tolist()
    return largest
