"""A portrait latent by latent and pair by pair, as plain data; null where there is no number."""

from __future__ import annotations

import math
from typing import Any

from saepipe.evaluate.metrics.geometry.latent_pairs import conditional, lifts
from saepipe.evaluate.metrics.geometry.matching import Match
from saepipe.evaluate.metrics.geometry.portrait import Portrait
from saepipe.evaluate.stats.intervals import Estimate


def latent_list(portrait: Portrait) -> list[dict[str, Any]]:
    """An entry a latent; `nearest` is the latent whose decoder row is the most similar to its own."""
    w = portrait.weights
    columns = {
        "max_decoder_cosine": w.max_cosine,
        "encoder_decoder_cosine": w.encoder_decoder,
        "decoder_norm": w.norm,
        "density": portrait.density,
    }
    rows = zip(*(map(_plain, column.tolist()) for column in columns.values()), strict=True)
    return [
        {"index": index, "nearest": nearest if nearest != index else None, **dict(zip(columns, row, strict=True))}
        for index, (nearest, row) in enumerate(zip(w.nearest.tolist(), rows, strict=True))
    ]


def with_match(latents: list[dict[str, Any]], match: Match) -> list[dict[str, Any]]:
    """The same entries, each with the latent of the baseline that it is matched with, and their cosine."""
    found = zip(match.theirs.tolist(), match.cosine.tolist(), strict=True)
    partner = dict(zip(match.ours.tolist(), found, strict=True))
    none = (None, math.nan)
    return [
        entry | {"baseline": other, "baseline_cosine": _plain(cosine)}
        for entry in latents
        for other, cosine in [partner.get(entry["index"], none)]
    ]


def pair_list(portrait: Portrait) -> list[dict[str, Any]]:
    """An entry a pair, the most similar first: tokens on which its latents fire, and what follows from them."""
    pairs, counts = portrait.weights.pairs, portrait.pairs
    named = zip(pairs.i.tolist(), pairs.j.tolist(), pairs.cosine.tolist(), lifts(counts), strict=True)
    entries = []
    for k, (latent_i, latent_j, cosine, lift) in enumerate(named):
        i, j, both = counts.i[:, k], counts.j[:, k], counts.both[:, k]
        tokens = {"tokens_i": int(i.sum()), "tokens_j": int(j.sum()), "tokens_both": int(both.sum())}
        estimates = {"j_given_i": conditional(both, i), "i_given_j": conditional(both, j), "lift": lift}
        entries.append({"i": latent_i, "j": latent_j, "cosine": _plain(cosine), **tokens, **_plain_all(estimates)})
    return entries


def _plain_all(estimates: dict[str, Estimate]) -> dict[str, Any]:
    """Values, and beside them intervals over documents, and reasons where there is no value."""
    values = {name: estimate.value for name, estimate in estimates.items()}
    intervals = {name: [e.low, e.high] for name, e in estimates.items() if e.low is not None}
    undefined = {name: e.reason for name, e in estimates.items() if e.reason}
    return values | {"intervals": intervals} | ({"undefined": undefined} if undefined else {})


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 10)
