"""The figures of a run's evaluations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.made_results import write_core, write_run
from saepipe.evaluate.use.finished_run import open_run

pytestmark = pytest.mark.quick


def test_figures_have_values_intervals_and_reasons(tmp_path: Path) -> None:
    run = open_run(write_core(write_run(tmp_path / "a" / "seed-0"), ev=None))
    assert list(run.metrics) == ["core"]
    l0 = run.metrics["core"]["l0"]
    assert (l0.value, l0.low, l0.high) == (10.0, 9.0, 11.0)
    assert str(l0) == "10 ±1"
    undefined = run.metrics["core"]["explained_variance"]
    assert (undefined.value, undefined.why) == (None, "nothing varies")


def test_a_run_without_results_and_a_result_of_an_earlier_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a" / "seed-0")
    run = open_run(folder)
    assert run.metrics == {}
    write_core(folder)
    assert run.metrics["core"]["delta_ce"].value == 0.5  # read anew
    earlier = json.loads((folder / "eval" / "core.json").read_text())
    other = write_run(tmp_path / "b" / "seed-0", steps=2)
    (other / "eval").mkdir()
    (other / "eval" / "core.json").write_text(json.dumps(earlier))
    assert open_run(other).metrics == {}
