"""A component that raises stops the runs that use it, with its file and line, and no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from saepipe.cli import main
from saepipe.data.errors import HealthError
from saepipe.data.folders.artifact import COMMITTED, is_committed
from saepipe.data.folders.health import Health
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

Make = Callable[..., TrainConfig]

PLUGIN = """
from typing import Literal

import torch

from saepipe.train.penalties.base import Penalised, Penalty


class {name}(Penalty):
    name: Literal["{name}"] = "{name}"

    def __call__(self, ctx, state, now):
        value = ctx.acts_sum.sum() / len(ctx.x)
        {call}
        return Penalised(value, {{}}, state)
"""
FAULTS = {
    "in_a_later_step": ("value = 1 / (ctx.step - 7) if ctx.step == 7 else value", "ZeroDivisionError", 14),
    "by_its_answer": ("if ctx.step == 7 and ctx.num_steps == 20: return 5", "gave a int (5); wanted: a Penalised", 12),
}


def study(config: Make, folder: Path, fault: str) -> TrainConfig:
    call, _, _ = FAULTS[fault]
    (folder / f"{fault}.py").write_text(PLUGIN.format(name=fault, call=call))
    variants = [{"name": "faulty", "penalties": [{"name": fault, "weight": 1}]}, {"name": "sound"}]
    return config(plugins=[str(folder / f"{fault}.py")], variants=variants)


@pytest.mark.parametrize("fault", FAULTS)
def test_only_its_variant_stops(config: Make, tmp_path: Path, fault: str) -> None:
    _, error, line = FAULTS[fault]
    with pytest.raises(HealthError, match=r"1 of 2 runs failed:\n.*faulty/seed-0: H21 error") as raised:
        train(study(config, tmp_path, fault), tmp_path / "runs")
    assert error in raised.value.message
    assert f"{tmp_path / fault}.py:{line}" in raised.value.message
    assert not is_committed(tmp_path / "runs" / "faulty" / "seed-0")
    (finding,) = [each for each in Health.read(tmp_path / "runs" / "faulty" / "seed-0").findings if each.rule == "H21"]
    assert finding.severity == "error"
    (alone,) = train(config(variants=[{"name": "sound"}]), tmp_path / "alone")
    sound = tmp_path / "runs" / "sound" / "seed-0"
    assert (sound / COMMITTED).read_text() == (alone / COMMITTED).read_text()


def test_on_the_command_line(config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.yaml").write_text(study(config, tmp_path, "in_a_later_step").to_yaml())
    assert main(["train", "-c", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs")]) == 8
    assert "in_a_later_step.py:14, in step 8; correct it there" in " ".join(capsys.readouterr().err.split())


def test_an_error_of_ours_is_not_blamed_on_a_component(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr("saepipe.train.step.step.update", broken)
    with pytest.raises(AssertionError, match="ours"):
        train(config(), tmp_path)
