"""Latents of two runs that are active on the same tokens: Jaccard index, and correlation of their activations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saepipe.evaluate.browse.open_run import OpenRun
from saepipe.evaluate.features.firings import Firings


@dataclass(frozen=True)
class Agreement:
    """How far one latent of a run and one of another run are active together."""

    latent: int
    """Latent of the other run."""
    jaccard: float
    """Tokens on which both are active / tokens on which either is."""
    correlation: float
    """Pearson's, of the activations on all tokens."""


def not_counted(run: OpenRun, other: OpenRun) -> str | None:
    """Returns why the firings of two runs cannot be compared; None if they can."""
    for one in (run, other):
        if one.store.info.firing_share is None:
            return f"the feature store of {one.label} has no firings; saepipe evaluate RUN builds it again"
    ours, theirs = (
        (info.cache, info.split, info.num_tokens, info.settings.get("seed", 0))
        for info in (run.store.info, other.store.info)
    )
    return None if ours == theirs else "the two feature stores are of different tokens"


class SameTokens:
    """The firings of two runs on the tokens that both stores sampled."""

    def __init__(self, run: OpenRun, other: OpenRun) -> None:
        ours, theirs = _common(run, other)
        self.num_tokens = len(ours.token)
        self._theirs, self._d_sae = theirs, other.d_sae
        order = np.argsort(ours.latent, kind="stable")
        self._token = np.repeat(np.arange(self.num_tokens, dtype=np.int32), np.diff(ours.start))[order]
        self._act = ours.act[order]
        self._start = np.searchsorted(ours.latent[order], np.arange(run.d_sae + 1))
        self._count = self._sum(theirs.latent)
        self._total = self._sum(theirs.latent, theirs.act)
        self._squares = self._sum(theirs.latent, theirs.act.astype(np.float64) ** 2)

    def _sum(self, latents: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(latents, weights, minlength=self._d_sae)

    def agreements(self, latent: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the Jaccard index and the correlation of a latent with each of the other run, (d_sae,) each."""
        entries = slice(self._start[latent], self._start[latent + 1])
        token, act = self._token[entries], self._act[entries].astype(np.float64)
        first, count = self._theirs.start[token], self._theirs.start[token + 1] - self._theirs.start[token]
        within = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
        there = np.repeat(first, count) + within
        both = self._sum(self._theirs.latent[there])
        products = self._sum(self._theirs.latent[there], np.repeat(act, count) * self._theirs.act[there])
        jaccard = both / np.maximum(len(token) + self._count - both, 1)
        n = max(self.num_tokens, 1)
        covariance = products / n - act.sum() / n * self._total / n
        variances = (np.square(act).sum() / n - (act.sum() / n) ** 2) * (self._squares / n - (self._total / n) ** 2)
        correlation = np.divide(covariance, np.sqrt(variances.clip(0)), out=np.zeros(self._d_sae), where=variances > 0)
        return jaccard, correlation

    def best(self, jaccard: np.ndarray, correlation: np.ndarray) -> Agreement | None:
        """Returns the latent with the largest Jaccard index; None if none is active on a token of ours."""
        latent = int(np.argmax(jaccard))
        return Agreement(latent, float(jaccard[latent]), float(correlation[latent])) if jaccard[latent] > 0 else None


def _common(run: OpenRun, other: OpenRun) -> tuple[Firings, Firings]:
    """Returns the firings of both on the tokens with numbers below the smaller of the two shares."""
    infos = (run.store.info, other.store.info)
    share = min(info.firing_share or 0 for info in infos)
    seed = infos[0].settings.get("seed", 0)
    firings = [one.store.firings for one in (run, other)]
    assert firings[0] is not None
    assert firings[1] is not None
    ours, theirs = (one.below(share, seed) for one in (firings[0], firings[1]))
    assert np.array_equal(ours.token, theirs.token), "both samples are of the same tokens"
    return ours, theirs
