"""Controls: their configs, and how they are recognised from configs alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from saepipe.data.errors import ConfigError
from saepipe.train.config import TrainConfig
from saepipe.train.controls import CONTROLS, control_config, control_overrides, recognised_control
from saepipe.train.run import train
from saepipe.train.rundir.finished_run import open_run

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


def test_controls_are_recognised_by_their_configs(config: Make, tmp_path: Any) -> None:
    """From finished runs, of another seed and with another number of pairs; and never the other way round."""
    variant = config(sae=TOPK, penalties=[{"name": "auxk"}, ORTSAE])
    named = {control: control_overrides(variant, control) for control in CONTROLS}
    others = {"variant": {}, "weaker": {"penalties.1.weight": 1.0}, "wider": {"sae.d_sae": 60, "freeze": "decoder"}}
    overrides = [{"name": name, **keys} for name, keys in (others | named).items()]
    study = TrainConfig.parse(variant.to_dict() | {"variants": overrides, "steps": 2, "seeds": [0]})
    runs = {path.parent.name: open_run(path).settings for path in train(study, tmp_path)}
    assert {name: recognised_control(run, runs["variant"]) for name, run in runs.items()} == {
        **dict.fromkeys(others),
        **{control: control for control in CONTROLS},
    }
    assert [recognised_control(runs["variant"], run) for run in runs.values()] == [None] * len(runs)
    many = control_config(variant, "random_pairs", {"ortsae": 400.0}).resolved(
        hook=runs["variant"]["hook"], num_rows=9, device=torch.device("cpu")
    )
    changed = many.identity() | {"seed": 7, "steps": 2, "dead": runs["variant"]["dead"]}
    assert recognised_control(changed, runs["variant"]) == "random_pairs"
    stronger = changed | {"penalties": [changed["penalties"][0], {**changed["penalties"][1], "weight": 3.0}]}
    assert recognised_control(stronger, runs["variant"]) is None
