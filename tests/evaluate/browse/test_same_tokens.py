"""Jaccard index and correlation of latents of two runs against brute force."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.runs_to_browse import write_runs
from saepipe.evaluate.browse.open_run import OpenRun
from saepipe.evaluate.browse.resources import Resources
from saepipe.evaluate.browse.run import open_runs
from saepipe.evaluate.browse.same_tokens import SameTokens
from saepipe.evaluate.features.store import FeatureStore
from saepipe.evaluate.features.token_numbers import uniform

pytestmark = pytest.mark.quick


def dense(run: OpenRun, share: float = 1.0) -> np.ndarray:
    """Returns the sampled activations, (num_tokens, d_sae)."""
    arrays = run.store.arrays
    acts = np.zeros((len(arrays["firing_token"]), run.d_sae))
    acts[np.repeat(np.arange(len(acts)), arrays["firing_count"]), arrays["firing_latent"]] = arrays["firing_act"]
    return acts[uniform(np.array(arrays["firing_token"]), 0) < share]


def check(run: OpenRun, other: OpenRun, share: float = 1.0) -> None:
    same, ours, theirs = SameTokens(run, other), dense(run, share), dense(other, share)
    assert same.num_tokens == len(ours)
    for latent in (0, 8, 9, 77):
        jaccard, correlation = same.agreements(latent)
        column = ours[:, [latent]]
        both, either = ((column > 0) & (theirs > 0)).sum(axis=0), ((column > 0) | (theirs > 0)).sum(axis=0)
        np.testing.assert_allclose(jaccard, both / np.maximum(either, 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            expected = np.corrcoef(np.hstack([column, theirs]).T)[0, 1:]
        np.testing.assert_allclose(correlation, np.nan_to_num(expected), atol=1e-9)
        best = same.best(jaccard, correlation)
        assert best is None if latent == 9 else best is not None and best.latent == np.argmax(jaccard)


def test_agreements_match_brute_force(resources: Resources) -> None:
    check(resources.runs[0], resources.runs[2])


def test_a_smaller_sample_is_compared_on_its_own_tokens(tmp_path: Path) -> None:
    run, other = open_runs(write_runs(tmp_path)[1:]).runs
    small = FeatureStore(other.store.folder, replace(other.store.info, firing_share=0.25), {}, other.store._files)
    check(run, replace(other, store=small), share=0.25)
    check(replace(other, store=small), run, share=0.25)
