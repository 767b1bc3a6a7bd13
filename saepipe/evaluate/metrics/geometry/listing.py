"""Per-latent and per-pair entries of a portrait, as plain data; null instead of NaN."""

from __future__ import annotations

import math
from typing import Any

from saepipe.evaluate.metrics.geometry.latent_pairs import conditional, lifts
from saepipe.evaluate.metrics.geometry.matching import Match
from saepipe.evaluate.metrics.geometry.portrait import Portrait
from saepipe.evaluate.stats.intervals import Estimate


def latent_entries(portrait: Portrait) -> list[dict[str, Any]]:
    """Returns one entry per latent; `nearest` is the latent with the most similar decoder row."""
    w = portrait.weights
    columns = {
        "max_decoder_cosine": w.max_cosine,
        "encoder_decoder_cosine": w.encoder_decoder_cosine,
        "decoder_norm": w.norm,
        "density": portrait.density,
    }
    rows = zip(*(map(_null_if_nan, column.tolist()) for column in columns.values()), strict=True)
    return [
        {"index": index, "nearest": nearest if nearest != index else None, **dict(zip(columns, row, strict=True))}
        for index, (nearest, row) in enumerate(zip(w.nearest.tolist(), rows, strict=True))
    ]


def with_match(latents: list[dict[str, Any]], match: Match) -> list[dict[str, Any]]:
    """Returns the entries, each with the baseline latent that it is matched with, and their cosine."""
    partners = zip(match.theirs.tolist(), match.cosine.tolist(), strict=True)
    partner_of = dict(zip(match.ours.tolist(), partners, strict=True))
    unmatched = (None, math.nan)
    return [
        entry | {"baseline": partner, "baseline_cosine": _null_if_nan(cosine)}
        for entry in latents
        for partner, cosine in [partner_of.get(entry["index"], unmatched)]
    ]


def pair_entries(portrait: Portrait) -> list[dict[str, Any]]:
    """Returns one entry per pair, the most similar first: token counts and the statistics computed from them."""
    pairs, counts = portrait.weights.pairs, portrait.pairs
    columns = zip(pairs.i.tolist(), pairs.j.tolist(), pairs.cosine.tolist(), lifts(counts), strict=True)
    entries = []
    for k, (latent_i, latent_j, cosine, lift) in enumerate(columns):
        i, j, both = counts.i[:, k], counts.j[:, k], counts.both[:, k]
        tokens = {"tokens_i": int(i.sum()), "tokens_j": int(j.sum()), "tokens_both": int(both.sum())}
        estimates = {"j_given_i": conditional(both, i), "i_given_j": conditional(both, j), "lift": lift}
        entries.append({"i": latent_i, "j": latent_j, "cosine": _null_if_nan(cosine), **tokens, **_plain(estimates)})
    return entries


def _plain(estimates: dict[str, Estimate]) -> dict[str, Any]:
    """Returns the values, their intervals over documents, and reasons for undefined values."""
    values = {name: estimate.value for name, estimate in estimates.items()}
    intervals = {name: [e.low, e.high] for name, e in estimates.items() if e.low is not None}
    undefined = {name: e.reason for name, e in estimates.items() if e.reason}
    return values | {"intervals": intervals} | ({"undefined": undefined} if undefined else {})


def _null_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 10)
