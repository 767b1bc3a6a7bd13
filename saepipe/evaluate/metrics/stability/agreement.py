"""Agreement of two dictionaries: the scores of latents matched one to one, by each kind of similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, get_args

import numpy as np

from saepipe.evaluate.metrics.stability.dictionary import Dictionary
from saepipe.evaluate.metrics.stability.latent_acts import Correlations
from saepipe.evaluate.stats.one_to_one import Cosines, Scores, match_one_to_one

Kind = Literal["decoder", "encoder", "activation"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Agreement:
    """Scores of the matched latents of two dictionaries, in one kind of similarity."""

    mean: float
    """over the matched latents; a lower bound of the largest if there were too many to assign"""
    weighted: float
    """the same, each match weighted by the mean density of its two latents"""
    upper: float
    """no one-to-one matching has a larger mean"""
    ours: np.ndarray
    """(num_latents,): score of each of our latents with its match; -1 without one"""
    theirs: np.ndarray
    """(num_latents,): the same for the other dictionary"""

    def swapped(self) -> Agreement:
        """Returns it as the other dictionary sees it."""
        return replace(self, ours=self.theirs, theirs=self.ours)


Agreements = Mapping[Kind, Sequence[Agreement]]
"""Agreements of one seed with each of the others, in their order."""


def agreements(first: Sequence[Dictionary], second: Sequence[Dictionary], max_assigned: int) -> list[Agreements]:
    """Matches the dictionaries of all pairs of seeds, none of them empty; returns each seed's agreements.

    The dictionary of the earlier seed of a pair is in `first`, that of the later one in `second`.
    """
    by_seed: list[dict[Kind, list[Agreement]]] = [{kind: [] for kind in KINDS} for _ in first]
    for i, j in combinations(range(len(first)), 2):
        for kind in KINDS:
            agreed = agreement(first[i], second[j], kind, max_assigned)
            by_seed[i][kind].append(agreed)
            by_seed[j][kind].append(agreed.swapped())
    return list(by_seed)


def agreement(ours: Dictionary, theirs: Dictionary, kind: Kind, max_assigned: int) -> Agreement:
    """Matches two dictionaries, each with at least one latent."""
    matching = match_one_to_one(_scores(ours, theirs, kind), max_assigned)
    i, j, score = (part.numpy() for part in (matching.rows, matching.columns, matching.scores))
    weights = ours.density[i] + theirs.density[j]
    of_ours, of_theirs = np.full(len(ours), -1.0), np.full(len(theirs), -1.0)
    of_ours[i], of_theirs[j] = score, score
    return Agreement(
        mean=float(score.mean()),
        weighted=float(weights @ score / weights.sum()),
        upper=matching.upper / len(score),
        ours=of_ours,
        theirs=of_theirs,
    )


def _scores(ours: Dictionary, theirs: Dictionary, kind: Kind) -> Scores:
    if kind == "activation":
        return Correlations(ours.acts, theirs.acts)
    return Cosines(getattr(ours, kind), getattr(theirs, kind))
