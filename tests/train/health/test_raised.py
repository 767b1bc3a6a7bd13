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

    def init_state(self, d_in, d_sae):
        {init}
        return {{}}

    def __call__(self, ctx, state, now):
        value = ctx.acts_sum.sum() / len(ctx.x)
        {call}
        return Penalised(value, {{}}, state)
"""
FAULTS = {
    "in_its_first_step": ("pass", "raise KeyError('gate')", "KeyError: 'gate'", 18),
    "in_a_later_step": ("pass", "value = 1 / (ctx.step - 7) if ctx.step == 7 else value", "ZeroDivisionError", 18),
    "on_real_rows": ("pass", "assert ctx.x.shape[1] != 24 or len(ctx.dead) != 40, 'why'", "AssertionError: why", 18),
    "in_its_state": ("raise OSError('no table')", "pass", "OSError: no table", 13),
    "by_its_answer": ("pass", "return 5 if ctx.step == 7 else Penalised(value, {}, state)", "AttributeError", None),
}


def study(config: Make, folder: Path, fault: str) -> TrainConfig:
    init, call, _, _ = FAULTS[fault]
    (folder / f"{fault}.py").write_text(PLUGIN.format(name=fault, init=init, call=call))
    variants = [{"name": "faulty", "penalties": [{"name": fault, "weight": 1}]}, {"name": "sound"}]
    return config(plugins=[str(folder / f"{fault}.py")], variants=variants)


@pytest.mark.parametrize("fault", FAULTS)
def test_only_its_variant_stops(config: Make, tmp_path: Path, fault: str) -> None:
    _, _, error, line = FAULTS[fault]
    with pytest.raises(HealthError, match=r"1 of 2 runs failed:\n.*faulty/seed-0: H21 error") as raised:
        train(study(config, tmp_path, fault), tmp_path / "runs")
    assert error in raised.value.message
    where = f"at {tmp_path / fault}.py:{line}" if line else f"in which the plugin's {fault} took part"
    assert where in raised.value.message
    assert not is_committed(tmp_path / "runs" / "faulty" / "seed-0")
    (finding,) = [each for each in Health.read(tmp_path / "runs" / "faulty" / "seed-0").findings if each.rule == "H21"]
    assert finding.severity == "error"
    (alone,) = train(config(variants=[{"name": "sound"}]), tmp_path / "alone")
    sound = tmp_path / "runs" / "sound" / "seed-0"
    assert (sound / COMMITTED).read_text() == (alone / COMMITTED).read_text()


def test_on_the_command_line(config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.yaml").write_text(study(config, tmp_path, "in_a_later_step").to_yaml())
    assert main(["train", "-c", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs")]) == 8
    assert "in_a_later_step.py:18, in step 8; correct it there" in " ".join(capsys.readouterr().err.split())


def test_an_error_of_ours_is_not_blamed_on_a_component(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr("saepipe.train.step.step.update", broken)
    with pytest.raises(AssertionError, match="ours"):
        train(config(), tmp_path)
