"""Memory in which feature stores are made, from their settings."""

from __future__ import annotations

from saepipe.evaluate.features.coactive import PAIRS_AT_ONCE
from saepipe.evaluate.features.config import Features
from saepipe.evaluate.features.firing_statistics import EDGES

_SLOT = 8 + 8 + 8 + 4
"""Bytes of an example beside its window: score, token, surroundings, activation."""

_ENTRY = 8
"""Bytes of an activation in a sample: latent and value."""

_PAIR = 80
"""Bytes of a pair of latents while its Jaccard index is computed."""


def builder_bytes(settings: Features, d_sae: int, window: int, num_tokens: int, l0: float) -> int:
    """Returns the bytes that one SAE's store holds until the pass ends.

    Args:
        settings: of the store.
        d_sae: latents.
        window: tokens shown per example.
        num_tokens: tokens of the pass.
        l0: active latents per token.
    """
    slots = 2 * settings.num_top + settings.num_quantiles * settings.per_quantile
    per_latent = slots * (4 * window + _SLOT) + 4 * (len(EDGES) - 1) + 20
    entries = int(num_tokens * l0)
    sampled = min(entries, settings.firing_entries * d_sae)
    coactive = min(entries, int(settings.coactive_pairs * d_sae / max(1.0, l0)))
    return d_sae * per_latent + _ENTRY * (sampled + coactive)


def writing_bytes(settings: Features, d_sae: int, window: int, num_tokens: int, l0: float) -> int:
    """Returns the bytes that are added while one store is written: its examples in order, or some of its pairs.

    Arguments are those of `builder_bytes`.
    """
    slots = settings.num_top + settings.num_quantiles * settings.per_quantile
    examples = d_sae * window * (slots * (3 * 4 + 2) - 4 * settings.num_top)  # ordered, joined, divided, as float16
    pairs = min(PAIRS_AT_ONCE, d_sae**2, settings.coactive_pairs * d_sae, int(num_tokens * l0**2))
    return max(examples, _PAIR * pairs)
