"""docs/slurm.md: its script is the one that is made, its recipes are YAML, and its commands parse."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import typer
import yaml

from helpers.repository import ROOT
from saepipe.cli import app
from saepipe.data.slurm.script import Job

pytestmark = pytest.mark.quick

PAGE = (ROOT / "docs" / "slurm.md").read_text()
SKYPILOT, PYTORCHJOB = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
CONTAINER = PYTORCHJOB["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
LINES = [
    re.sub(r"^\s+(job=\$\()?| \| jq.*", "", line)
    for line in PAGE.splitlines()
    if re.match(r" {4}(job=\$\()?saepipe ", line)
]
COMMANDS = [*map(shlex.split, [*LINES, SKYPILOT["run"].removeprefix("exec ")]), CONTAINER["command"][4:]]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_a_command_parses(words: list[str]) -> None:
    assert words[0] == "saepipe"
    command = typer.main.get_command(app).commands[words[1]]
    assert command.make_context(words[1], words[2:]).params["out" if words[1] != "evaluate" else "runs"]


def test_there_are_commands() -> None:
    assert [words[1] for words in COMMANDS] == [
        *("harvest", "train", "evaluate", "study"),  # at the top
        *("harvest", "train"),  # one after the other
        *("train", "train"),  # recipes
    ]


def test_the_script_is_the_one_that_is_made() -> None:
    arguments = ["train", "--config", "study.yaml", "--out", "runs/study"]
    script = Job.of(arguments, ["array=1-8%4", "time=4:00:00"], [Path("/home/me/runs/study")]).script()
    shown = PAGE.split("## The script\n\n")[1].split("\n\n- **`exec`**")[0]
    assert "\n".join(line.removeprefix("    ") for line in shown.splitlines()) + "\n" == script.replace(
        sys.executable, "python"
    )
