"""The n-th decoder projection on sampled contexts, against sorted projections of their tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from saepipe.data.cache.joint_hooks import joint_name
from saepipe.evaluate.metrics.geometry import projection
from saepipe.evaluate.metrics.geometry.projection import ProjectionSample
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import Estimate

pytestmark = pytest.mark.quick

NUM_CONTEXTS, SEQ = 10, 20


def measure(sae: Any, testbed: Testbed) -> float | Estimate:
    sample = ProjectionSample(testbed, NUM_CONTEXTS)
    for batch in testbed.batches(NUM_CONTEXTS):
        sample.add(batch)
    run: Any = None
    return sample.measure(Subject(run, sae, {}))


def test_of_every_third_context_whatever_the_batches(random_sae, testbed_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """23 latents have a direction; b_dec is subtracted, and special tokens are left out."""
    monkeypatch.setattr(projection, "NUM_POSITIONS", NUM_CONTEXTS * SEQ // 3)
    (whole,) = testbed_of(NUM_CONTEXTS).batches(NUM_CONTEXTS)
    x = torch.cat([whole.x[index][whole.keep[index]] for index in (0, 3, 6, 9)]) - random_sae.b_dec
    rows = random_sae.W_dec[:23] / random_sae.W_dec[:23].norm(dim=1, keepdim=True)
    expected = np.sort((x @ rows.T).numpy().ravel())[::-1][8 * len(x)]
    small, large = (measure(random_sae, testbed_of(size)) for size in (1, 7))
    assert small == large == pytest.approx(expected, abs=1e-5)


def test_transcoders_and_crosscoders_have_none(random_sae, testbed: Testbed) -> None:
    for other in (replace(testbed, target="blocks.1.hook_mlp_out"), replace(testbed, hook=joint_name(["a", "b"]))):
        sample = ProjectionSample(other, NUM_CONTEXTS)
        sample.add(next(testbed.batches(NUM_CONTEXTS)))
        run: Any = None
        estimate = sample.measure(Subject(run, random_sae, {}))
        assert isinstance(estimate, Estimate)
        assert (estimate.value, "defined for SAEs" in str(estimate.reason)) == (None, True)


def test_no_decoder_row_and_no_kept_token(make_sae, random_sae, testbed: Testbed) -> None:
    empty = measure(make_sae(torch.eye(16), torch.zeros(16, 16)), testbed)
    assert isinstance(empty, Estimate)
    assert empty.reason == "no decoder row has a direction"
    sample = ProjectionSample(testbed, NUM_CONTEXTS)
    batch = next(testbed.batches(NUM_CONTEXTS))
    sample.add(replace(batch, keep=torch.zeros_like(batch.keep)))
    run: Any = None
    assert "special tokens" in str(sample.measure(Subject(run, random_sae, {})).reason)  # type: ignore[union-attr]
