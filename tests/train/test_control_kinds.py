"""Controls are recognised from two configs alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from saepipe.train.config import TrainConfig
from saepipe.train.control_kinds import CONTROLS, may_be_control, recognised_control
from saepipe.train.controls import control_config, control_overrides
from saepipe.train.run import train
from saepipe.train.rundir.finished_run import open_run

Make = Callable[..., TrainConfig]
ORTSAE = {"name": "ortsae", "weight": 2.0, "warmup": 0.1}
TOPK = {"name": "topk", "d_sae": 40, "k": 4}


def test_controls_are_recognised_by_their_configs(config: Make, tmp_path: Path) -> None:
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
    assert [name for name, run in runs.items() if not may_be_control(run)] == ["variant", "weaker"]
    many = control_config(variant, "random_pairs", {"ortsae": 400.0}).resolved(
        hook=runs["variant"]["hook"], num_rows=9, device=torch.device("cpu")
    )
    changed = many.identity() | {"seed": 7, "steps": 2, "dead": runs["variant"]["dead"]}
    assert recognised_control(changed, runs["variant"]) == "random_pairs"
    stronger = changed | {"penalties": [changed["penalties"][0], {**changed["penalties"][1], "weight": 3.0}]}
    assert recognised_control(stronger, runs["variant"]) is None


def test_a_control_may_be_trained_to_another_l0(config: Make) -> None:
    """To reach the L0 of its variant, a control may need another target."""

    def identity(l0: float, **changes: object) -> dict[str, object]:
        target = {"name": "l0_target", "l0": l0, "penalty": {"name": "l1", "weight": 1.0}}
        return config(sae={"name": "batch_topk", "d_sae": 40, "k": l0}, penalties=[], **changes).identity() | {
            "penalties": [target]
        }

    assert recognised_control(identity(4.0, freeze="decoder"), identity(5.0)) == "frozen_decoder"
    assert recognised_control(identity(4.0), identity(5.0)) is None
