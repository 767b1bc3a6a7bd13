"""Counterparts of a run's latents in another run, by decoder cosine and by firing on the same tokens, as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from saepipe.data.errors import SaepipeError
from saepipe.evaluate.browse.counterpart import Match, cosine, nearest, nearest_of_each
from saepipe.evaluate.browse.open_run import OpenRun
from saepipe.evaluate.browse.same_tokens import SameTokens, not_counted


class Matches:
    """Both kinds of counterpart of each latent of `run` in `other`."""

    def __init__(self, run: OpenRun, other: OpenRun) -> None:
        self._run, self._other = run, other
        self._no_cosine, self._no_firings = incomparable(run, other), not_counted(run, other)

    def get(self, latent: int) -> dict[str, Any]:
        """Returns the counterparts of one latent.

        {"tokens": of the comparison of firings, or null,
        "decoder", "firing": {"latent", "cosine", "jaccard", "correlation"}; without a counterpart {"latent": null,
        "reason"}; null for a figure that cannot be had}
        """
        match = None if self._no_cosine else nearest(self._run.store.decoder[latent], self._other.store.decoder)
        return self._both(latent, match)

    def all(self) -> Iterator[dict[str, Any]]:
        """Yields the counterparts of all latents, in order."""
        matches: Iterator[Match | None] = iter([None] * self._run.d_sae)
        if not self._no_cosine:
            matches = nearest_of_each(self._run.store.decoder, self._other.store.decoder)
        yield from (self._both(latent, match) for latent, match in enumerate(matches))

    @cached_property
    def _same_tokens(self) -> SameTokens:
        return SameTokens(self._run, self._other)

    def _both(self, latent: int, match: Match | None) -> dict[str, Any]:
        agreements = None if self._no_firings else self._same_tokens.agreements(latent)
        best = None if agreements is None else self._same_tokens.best(*agreements)
        no_firings = self._no_firings or "no latent there is active on any of the tokens on which it is"
        return {
            "tokens": None if agreements is None else self._same_tokens.num_tokens,
            "decoder": self._found(latent, match.latent, agreements)
            if match
            else _none(self._no_cosine or "this latent's decoder row is zero"),
            "firing": self._found(latent, best.latent, agreements) if best else _none(no_firings),
        }

    def _found(self, latent: int, theirs: int, agreements: tuple[np.ndarray, np.ndarray] | None) -> dict[str, Any]:
        figures = [None, None] if agreements is None else [round(float(values[theirs]), 4) for values in agreements]
        similarity = None
        if not self._no_cosine:
            similarity = round(cosine(self._run.store.decoder[latent], self._other.store.decoder[theirs]), 4)
        return {"latent": theirs, "cosine": similarity, "jaccard": figures[0], "correlation": figures[1]}


def incomparable(run: OpenRun, other: OpenRun) -> str | None:
    """Returns why decoder rows of two runs cannot be compared; None if they can."""
    ours, theirs = run.store.info, other.store.info
    if ours.model.get("id") != theirs.model.get("id"):
        return f"it belongs to another model, {theirs.model.get('id')}"
    if (ours.hook, ours.target, ours.d_in) != (theirs.hook, theirs.target, theirs.d_in):
        to_target = f" -> {theirs.target}" if theirs.target else ""
        return f"it belongs to another hook, {theirs.hook}{to_target}"
    try:
        _ = run.store.decoder, other.store.decoder
    except SaepipeError as error:  # a run was moved away from its store, or is damaged
        return error.message
    return None


def _none(reason: str) -> dict[str, Any]:
    return {"latent": None, "reason": reason}
