"""Uninformative figures are reported: a score without a loss to recover, a model no better than chance."""

from __future__ import annotations

import math

import pytest
import torch

from saepipe.evaluate.metrics.core.document_sums import DocumentSums
from saepipe.evaluate.metrics.core.formulas import CoreSums, metrics, warnings
from saepipe.evaluate.stats.intervals import Estimate

pytestmark = pytest.mark.quick


def core_sums(clean: float, ablated: float, sae: float) -> CoreSums:
    """Returns the sums of ten tokens in two documents with these mean losses; every other value is 1."""
    names = "tokens scored error variation legacy varied cosine norm_in norm_out norm_ratio nonzero square_out product"
    documents = torch.arange(10) % 2

    def sums(ce: float) -> DocumentSums:
        document_sums = DocumentSums(2, "made up")
        ones = {name: torch.ones(10, dtype=torch.float64) for name in [*names.split(), "l0", "l1"]}
        document_sums.add(documents, {**ones, "ce": ones["tokens"] * ce, "kl": ones["tokens"] * ce})
        return document_sums

    return CoreSums(sums(sae), sums(clean), sums(ablated), {})


LATENTS = {"feature_density": torch.ones(3).numpy(), "max_encoder_cosine_sim": torch.ones(3).numpy()}
LATENTS["max_decoder_cosine_sim"] = LATENTS["max_encoder_cosine_sim"]


def ce_loss_score(sums: CoreSums) -> Estimate:
    figure = metrics(sums, LATENTS, 10)["model_performance_preservation"]["ce_loss_score"]
    assert isinstance(figure, Estimate)
    return figure


def test_the_score_is_the_share_of_the_loss_recovered() -> None:
    assert ce_loss_score(core_sums(clean=2, ablated=10, sae=4)).value == pytest.approx(0.75)


@pytest.mark.parametrize("ablated", [10.0, 12.0])
def test_no_score_if_the_ablation_does_no_harm(ablated: float) -> None:
    """The toy model on news is such a case: clean 12.8 nats, zeros at the hook 10.2, and a naive score of 1.07."""
    score = ce_loss_score(core_sums(clean=12.0, ablated=ablated, sae=12.5))
    assert score.value is None
    assert score.reason


def test_warns_of_a_model_no_better_than_chance() -> None:
    chance = math.log(4096)
    assert warnings(core_sums(clean=chance - 0.1, ablated=9, sae=9), 4096) == []
    (warning,) = warnings(core_sums(clean=12.84, ablated=10, sae=13), 4096)
    assert "12.84 nats, is no better than a uniform guess (8.32)" in warning
