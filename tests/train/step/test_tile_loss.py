"""Steps over four ranks are those of one process, for every architecture, penalty and transform (bench/parallel.py)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from helpers.repository import BENCH
from helpers.torchrun import torchrun
from saepipe.data.config.component import Component, import_members
from saepipe.train.penalties.base import Penalty
from saepipe.train.sae.base import Architecture
from saepipe.train.transforms.base import Transform

sys.path.append(str(BENCH))

import parallel

STEPS = 6


def test_steps_over_a_grid_of_ranks_are_those_of_one_process(tmp_path: Path) -> None:
    out = tmp_path / "cases.jsonl"
    options = ["--latents", "2", "--data", "2", "--steps", str(STEPS), "--out", str(out)]
    run = torchrun(4, [str(BENCH / "parallel.py"), *options])
    assert run.returncode == 0, run.stderr
    cases = [json.loads(line) for line in out.read_text().splitlines()]
    assert [case["case"] for case in cases] == list(parallel.CASES)
    assert not [case for case in cases if max(case["loss"], case["figures"]) > 1e-5]
    # Adam's first steps are as long for a gradient of 1e-9, which is little more than its rounding, as for one of 1.
    assert not [case for case in cases if case["parameters"] > 2e-4]


@pytest.mark.parametrize("family", [Architecture, Penalty, Transform])
def test_every_component_is_a_case(family: type[Component]) -> None:
    import_members(family.package)
    mine = {name for name, member in family.members.items() if member.__module__.startswith(family.package)}
    mine -= {"matching_pursuit"}  # refused: each of its steps compares all latents
    assert mine <= {name for case in parallel.CASES.values() for name in names_in(case)} | {"relu"}


def names_in(case: object) -> list[str]:
    """Returns the names of all components in a case's settings."""
    if isinstance(case, dict):
        own = [case["name"]] if "name" in case else []
        return own + [name for value in case.values() for name in names_in(value)]
    return [name for value in case for name in names_in(value)] if isinstance(case, list) else []
