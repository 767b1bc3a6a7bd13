"""Stage C: how much of a letter's direction do latents other than the letter's own carry, word by word?

Chanin et al., "A is for Absorption" (arXiv 2409.14507), with the projection tests of SAEBench 0.6.0. A letter's
direction is that of a linear probe. A latent's part of it is its activation times its decoder row's projection on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from saepipe.evaluate.model.config import Mode

MIN_SHARE = 0.4
"""Share of a word's projection that the absorbing latents must carry."""
MIN_COSINE = 0.1
"""Smallest cosine between the direction and the decoder row of a latent that may absorb in part."""
MIN_COSINE_FULL = 0.025
"""Smallest such cosine for the single latent of full absorption."""
MAX_ABSORBERS = 3
MIN_ACTIVE = 1e-8
"""Smallest activation that counts as active."""


@dataclass(frozen=True)
class WordScores:
    """Absorption at each word of one letter."""

    fraction: Tensor
    """(num_words,) float32 in [0, 1]: absorbed share of the letter's direction"""
    full: Tensor
    """(num_words,) bool: whether the letter's latents are inactive and one other latent carries the direction"""
    top: Tensor
    """(num_words,) int64: the other latent that carries most of the direction"""


def word_scores(
    x: Tensor, acts: Tensor, W_dec: Tensor, direction: Tensor, split: Sequence[int] | Tensor, *, mode: Mode = "fixed"
) -> WordScores:
    """Returns absorption fraction and full absorption of each word.

    With a = x . p the word's projection on the unit direction p, pi_j = acts_j (W_dec[j] . p) the part of latent j,
    M the sum of pi over the letter's own latents, and A the sum of the up to three largest positive pi of other
    latents whose decoder rows have a cosine of at least 0.1 with p:

        fraction = 0 if M >= a or A < 0.4 a; else 1 if M <= 0; else b / (b + M), b = min(A, a - M)
        full     = the letter's latents are inactive, and the latent with the largest pi has a cosine >= 0.025 and
                   pi >= 0.4 a

    and 0 and False if a <= 0: the word does not point along the letter. `reference` uses acts_j times the cosine for
    pi_j, which is the projection only for decoder rows of unit norm. SAEBench searches the letter's own latents too for
    the largest pi, which changes nothing, since they must be inactive. At a = 0 it fails with a division by zero.

    Args:
        x: (num_words, d_in) what the latents have to explain: activations less b_dec; `reference`: activations.
        acts: (num_words, d_sae) latent activations of the same words.
        W_dec: (d_sae, d_in).
        direction: (d_in,) of any nonzero norm.
        split: the letter's own latents.
        mode: which definition to use.
    """
    unit = normalize(direction.float(), dim=0)
    cosines = cosine_similarity(unit, W_dec.float(), dim=-1)  # (d_sae,)
    parts = acts * (cosines if mode == "reference" else W_dec.float() @ unit)  # (num_words, d_sae)
    a = x.float() @ unit
    own = torch.zeros(len(cosines), dtype=torch.bool, device=acts.device)
    own[torch.as_tensor(split, dtype=torch.long, device=acts.device)] = True

    main = parts[:, own].sum(1)
    absorbers = (~own & (cosines >= MIN_COSINE)) * parts.clamp(min=0)
    absorbed = absorbers.topk(min(MAX_ABSORBERS, len(cosines))).values.sum(1)
    taken = torch.minimum(absorbed, a - main)
    fraction = torch.where(main <= 0, 1.0, (taken / (taken + main)).clamp(0, 1))
    is_absorbed = (a > 0) & (main < a) & (absorbed >= MIN_SHARE * a)

    largest, top = parts.masked_fill(own, -torch.inf).max(1)
    inactive = (acts[:, own].abs() < MIN_ACTIVE).all(1)
    full = (a > 0) & inactive & (cosines[top] >= MIN_COSINE_FULL) & (largest >= MIN_SHARE * a)
    return WordScores(fraction.where(is_absorbed, 0.0), full, top)


def concatenate(parts: Iterable[WordScores]) -> WordScores:
    """Returns the scores of consecutive groups of words as one, on the CPU."""
    fields = zip(*((part.fraction, part.full, part.top) for part in parts), strict=True)
    return WordScores(*(torch.cat(field).cpu() for field in fields))
