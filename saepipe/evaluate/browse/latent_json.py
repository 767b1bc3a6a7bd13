"""One latent as plain data, with as many digits as a reader needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saepipe.evaluate.features.store import Example, Latent

Pairs = Sequence[tuple[Any, float]]


def latent_json(latent: Latent) -> dict[str, Any]:
    """Returns the fields of `Latent`; lists of numbers have four significant digits."""
    edges, counts = latent.histogram
    return {
        "index": latent.index,
        "density": latent.density,
        "num_active": latent.num_active,
        "mean_act": latent.mean_act,
        "max_act": latent.max_act,
        "histogram": {"edges": [short(edge) for edge in edges], "counts": counts},
        "examples": [_example(example) for example in latent.examples],
        "positive_logits": _pairs(latent.positive_logits),
        "negative_logits": _pairs(latent.negative_logits),
        "neighbours": _pairs(latent.neighbours),
        "coactive": _pairs(latent.coactive),
    }


def short(value: float | None) -> float | None:
    """Rounds to four significant digits."""
    return float(f"{value:.4g}") if value else value  # most activations are 0


def _example(example: Example) -> dict[str, Any]:
    return {**vars(example), "acts": [short(act) for act in example.acts]}


def _pairs(pairs: Pairs | None) -> list[list[Any]] | None:
    return None if pairs is None else [[name, short(value)] for name, value in pairs]
