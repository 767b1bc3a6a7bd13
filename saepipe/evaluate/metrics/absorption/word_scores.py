"""Stage C, word by word: how much of a letter's direction do other latents than the letter's own carry?

Chanin et al., "A is for Absorption" (arXiv 2409.14507), with the projection tests of SAEBench 0.6.0. The direction of
a letter is that of a linear probe. A latent's part in it is its activation times its decoder's projection on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

Mode = Literal["fixed", "reference"]

MIN_SHARE = 0.4
"""Of a word's projection that the absorbing latents must carry."""
MIN_COSINE = 0.1
"""Between the direction and the decoder of a latent that may absorb in part."""
MIN_COSINE_FULL = 0.025
"""The same for the one latent of full absorption."""
MAX_ABSORBERS = 3
SILENT = 1e-8
"""An activation below this is none."""


@dataclass(frozen=True)
class WordScores:
    """What was found at each word of one letter."""

    fraction: Tensor
    """(num_words,) float32 in [0, 1]: the absorbed share of the letter"""
    full: Tensor
    """(num_words,) bool: the letter's latents are silent and one other carries it"""
    top: Tensor
    """(num_words,) int64: of all other latents the one that carries most of the direction"""


def word_scores(
    x: Tensor, acts: Tensor, W_dec: Tensor, direction: Tensor, split: Sequence[int] | Tensor, *, mode: Mode = "fixed"
) -> WordScores:
    """Absorption fraction and full absorption of each word.

    With a = x . p the word's projection on the unit direction p, pi_j = acts_j (W_dec[j] . p) the part of latent j,
    M the sum of pi over the letter's own latents, and A that of the up to three largest positive pi of other latents
    whose decoders have a cosine of at least 0.1 with p:

        fraction = 0 where M >= a or A < 0.4 a; else 1 where M <= 0; else b / (b + M), b = min(A, a - M)
        full     = the letter's latents are silent, and the latent with the largest pi has a cosine >= 0.025 and
                   pi >= 0.4 a

    and 0 and False where a <= 0: the word does not point along the letter. `reference` takes acts_j times the cosine
    for pi_j, which is the projection for decoders of unit norm only. That it looks for the largest pi among the
    letter's own latents too changes nothing, since they must be silent. At a = 0 it stops with a division by zero.

    Args:
        x: (num_words, d_in) what the latents are to make up: activations less b_dec; `reference`: activations.
        acts: (num_words, d_sae) of the same words.
        W_dec: (d_sae, d_in).
        direction: (d_in,) of any length but zero.
        split: the letter's own latents.
        mode: which definition.
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
    counts = (a > 0) & (main < a) & (absorbed >= MIN_SHARE * a)

    largest, top = parts.masked_fill(own, -torch.inf).max(1)
    silent = (acts[:, own].abs() < SILENT).all(1)
    full = (a > 0) & silent & (cosines[top] >= MIN_COSINE_FULL) & (largest >= MIN_SHARE * a)
    return WordScores(fraction.where(counts, 0.0), full, top)


def joined(parts: Iterable[WordScores]) -> WordScores:
    """The scores of some words, then of others, on the CPU."""
    fields = zip(*((part.fraction, part.full, part.top) for part in parts), strict=True)
    return WordScores(*(torch.cat(field).cpu() for field in fields))
