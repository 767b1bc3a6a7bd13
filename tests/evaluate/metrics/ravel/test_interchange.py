"""The intervention against a plain module hook on the whole model, all latents decoded."""

from __future__ import annotations

import pytest
import torch

from helpers.plain_interchange import target_logits
from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.metrics.ravel.interchange import changes_of_acts, interchange
from saepipe.evaluate.metrics.ravel.teacher_forcing import UNLABELLED


@torch.no_grad()
def test_logits_equal_those_of_a_plain_hook(deep_testbed, inputs, random_sae, subject_of) -> None:
    model, subject = deep_testbed.language_model.model, subject_of(random_sae)
    mask = torch.linspace(0, 1, 24)
    rows = inputs.select(0, test=True)
    moved = []
    with deep_testbed.upper_layers() as upper_layers:
        ours = {}
        for batch in inputs.batches(rows, 5):
            changes = mask * changes_of_acts(subject, batch.x_base, batch.x_source)
            logits = upper_layers(batch.ids, interchange(batch.x, batch.positions, changes, random_sae.W_dec))
            for row, values, labels in zip(batch.rows.tolist(), logits, batch.labels, strict=True):
                ours[row] = values[labels != UNLABELLED]
    for row in rows.tolist():
        expected, _ = target_logits(model, random_sae, inputs, row, mask)
        torch.testing.assert_close(ours[row], expected, atol=1e-4, rtol=1e-4)
        moved.append(float((expected - target_logits(model, random_sae, inputs, row, 0 * mask)[0]).abs().max()))
    assert min(moved) > 0.01


def test_an_sae_that_is_not_finite_stops_the_evaluation(make_sae, subject_of) -> None:
    broken = make_sae(torch.full((2, 3), torch.nan), torch.zeros(3, 2))
    with pytest.raises(CorruptDataError, match="NaN or Inf"):
        changes_of_acts(subject_of(broken), torch.ones(1, 2), torch.ones(1, 2))
