"""Configs of controls: what they share with their variant, and which are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from saepipe.data.errors import ConfigError
from saepipe.train.config import TrainConfig
from saepipe.train.controls import control_config

Make = Callable[..., TrainConfig]
L1 = {"name": "l1", "weight": 0.3}
ORTSAE = {"name": "ortsae", "weight": 2.0, "warmup": 0.1}
TOPK = {"name": "topk", "d_sae": 40, "k": 4}


def pairs(config: TrainConfig) -> list[dict[str, Any]]:
    """Returns its penalties of random pairs."""
    return [penalty.to_dict() for penalty in config.penalties if penalty.name == "random_pairs"]


@pytest.mark.parametrize(
    ("control", "freeze"),
    [("frozen_decoder", "decoder"), ("frozen_encoder", "encoder"), ("soft_decoder", "soft_decoder")],
)
def test_a_frozen_control_differs_in_the_freeze_alone(config: Make, control: Any, freeze: str) -> None:
    variant = config(sae=TOPK, penalties=[ORTSAE])
    assert control_config(variant, control).to_dict() == variant.to_dict() | {"freeze": freeze}


@pytest.mark.parametrize(
    ("penalty", "per_latent", "margin"),
    [
        (ORTSAE, 1, 0.0),
        ({"name": "c2r", "weight": 2.0, "warmup": 0.1}, 1, 0.0),
        ({"name": "absorption", "weight": 2.0, "warmup": 0.1, "neighbours": 3, "margin": 0.2}, 3, 0.2),
        ({"name": "topk_orthogonality", "weight": 2.0, "warmup": 0.1, "pairs_per_latent": 2, "tau": 0.1}, 2, 0.1),
        ({"name": "topk_orthogonality", "weight": 2.0, "warmup": 0.1, "fraction": 0.2, "select": "both"}, 4, 0.0),
        ({"name": "orthogonality", "form": "hinge", "weight": 2.0, "warmup": 0.1, "neighbours": 2}, 2, 0.0),
    ],
)
def test_random_pairs_are_as_many_and_as_strong(
    config: Make, penalty: dict[str, Any], per_latent: int, margin: float
) -> None:
    """Of 40 latents a fraction of 0.2 is 156 of 780 pairs, 3.9 for each."""
    variant = config(penalties=[L1, penalty])
    placebo = control_config(variant, "random_pairs")
    expected = {"name": "random_pairs", "weight": 2.0, "warmup": 0.1, "margin": margin, "pairs_per_latent": per_latent}
    assert pairs(placebo) == [expected]
    assert placebo.penalties[0] == variant.penalties[0]
    measured = control_config(variant, "random_pairs", {penalty["name"]: 250.0})
    assert pairs(measured)[0]["pairs_per_latent"] == 6


def test_a_moving_weight_stays(config: Make) -> None:
    weight = {"start": 0.0, "end": 1.0, "finish": 0.5}
    placebo = control_config(config(penalties=[{"name": "ortsae", "weight": weight}]), "random_pairs")
    assert (
        pairs(placebo)[0]["weight"] == config(penalties=[{**L1, "weight": weight}]).to_dict()["penalties"][0]["weight"]
    )


@pytest.mark.parametrize(
    ("changes", "control", "message"),
    [
        ({"penalties": [L1]}, "random_pairs", r"no penalty of the variant selects pairs \(penalties: l1\)"),
        ({"penalties": []}, "random_pairs", r"penalties: none"),
        ({"penalties": [{"name": "random_pairs", "weight": 1}]}, "random_pairs", "selects pairs"),
        ({"penalties": [{"name": "orthogonality", "weight": 1}]}, "random_pairs", "selects pairs"),
        ({"freeze": "decoder"}, "soft_decoder", "is a control itself"),
        ({}, "frozen_encoder", "about half the latents of a relu"),
    ],
)
def test_a_control_that_would_show_nothing_is_refused(
    config: Make, changes: dict[str, Any], control: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        control_config(config(**changes), control)
