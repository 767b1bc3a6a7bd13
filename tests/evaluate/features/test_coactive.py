"""Co-active latents: Jaccard indices against whole arrays, equal ones, and pairs counted a few at a time."""

from __future__ import annotations

import numpy as np
import pytest

from saepipe.evaluate.features import coactive
from saepipe.evaluate.features.coactive import CoactivationCounter
from saepipe.evaluate.features.token_sample import SampledTokens


def counter_of(active: np.ndarray) -> CoactivationCounter:
    """Returns a counter that has seen the tokens of active (num_tokens, d_sae) bool."""
    token, latent = active.nonzero()
    num = np.bincount(token, minlength=len(active))
    counter = CoactivationCounter(active.shape[1], 10**9)
    sampled = SampledTokens(np.zeros(len(num)), np.arange(len(num)), num, latent.astype(np.int32), np.ones(len(latent)))
    counter.sample.tokens = lambda: sampled  # type: ignore[method-assign]
    return counter


@pytest.mark.parametrize("at_once", [1, 50, 2**22])
def test_the_nearest_are_those_of_all_pairs(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latent 0 is active on every token, 1 on none, and 2 is never active with another."""
    monkeypatch.setattr(coactive, "PAIRS_AT_ONCE", at_once)
    rng, num = np.random.default_rng(0), 5
    active = rng.random((200, 30)) < 0.08
    active[:, 0], active[:, 1], active[:, 2] = True, False, False
    active[-1], active[-1, 2] = False, True
    both = active.T.astype(int) @ active
    either = active.sum(0)[:, None] + active.sum(0) - both
    jaccard = np.divide(both, either, out=np.zeros(both.shape), where=either > 0)
    np.fill_diagonal(jaccard, 0)
    order = np.argsort(-jaccard, axis=1, kind="stable")[:, :num]  # of equal ones the first
    best = np.take_along_axis(jaccard, order, axis=1)
    found = counter_of(active).nearest(num)
    np.testing.assert_array_equal(found["coactive"], np.where(best > 0, order, -1))
    np.testing.assert_allclose(found["coactive_score"], np.where(best > 0, best, np.nan), rtol=1e-6)
    assert (found["coactive"][1:3] == -1).all()


def test_few_latents_leave_slots_empty() -> None:
    found = counter_of(np.array([[True, True], [True, False]])).nearest(3)
    assert found["coactive"].tolist() == [[1, -1, -1], [0, -1, -1]]
    np.testing.assert_allclose(found["coactive_score"][:, 0], 0.5)
