"""docs/tutorial.md, done as a newcomer does it: files saved, commands run, in order; and what the page says is true."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from helpers.repository import DOCS
from saepipe.data.folders.health import Health, errors

PAGE = DOCS / "tutorial.md"
BLOCK = re.compile(r"(?:^`(?P<file>[\w.]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
SEEDS = (0, 1, 2)


@dataclass
class Done:
    """The folder after the last block, and what stands wrong on the page."""

    folder: Path
    commands: int = 0
    untold: list[str] = field(default_factory=list)  # lines of a text block that no command before it said


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    found = Done(tmp_path_factory.mktemp("tutorial"))
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": tools, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"}
    said = ""
    for block in BLOCK.finditer(PAGE.read_text()):
        file, kind, text = block.groups()
        if file:
            (found.folder / file).write_text(text)
        elif kind == "sh":
            ran = subprocess.run(
                ["bash", "-ec", text], cwd=found.folder, env=environment, capture_output=True, text=True, check=False
            )
            assert ran.returncode == 0, f"{text}\n{ran.stdout}\n{ran.stderr}"
            found.commands += 1
            said = ran.stdout + ran.stderr
        else:
            assert kind == "text"
            found.untold += [line for line in text.splitlines() if plain(line) not in plain(said)]
    return found


def plain(text: str) -> str:
    """Without what differs from one machine to the next: numbers and the widths of columns."""
    return " ".join(re.sub(r"[+-]?\d[\d.,]*(e[+-]?\d+)?", "#", text).split())


def test_the_page_is_read_as_it_is_written() -> None:
    blocks = [(block["file"], block["kind"]) for block in BLOCK.finditer(PAGE.read_text())]
    assert [file for file, _ in blocks if file] == ["silence.py", "harvest.yaml", "study.yaml"]
    assert 2 * len(blocks) == PAGE.read_text().count("\n```")
    assert all(file or kind in ("sh", "text") for file, kind in blocks)


def test_every_command_runs_and_says_what_the_page_shows(done: Done) -> None:
    assert done.commands == 6
    assert done.untold == []


def test_what_the_page_says_of_the_study(done: Done) -> None:
    for seed in SEEDS:
        runs = [done.folder / "runs" / variant / f"seed-{seed}" for variant in ("baseline", "silence")]
        before, after = (core(run) for run in runs)
        assert abs(after["l0"] - before["l0"]) < 0.05 * before["l0"]  # comparable
        assert 0.002 < before["explained_variance"] - after["explained_variance"] < 0.03
        assert 0.005 < after["delta_ce"] - before["delta_ce"] < 0.1
        for run in runs:
            letters = json.loads((run / "eval" / "absorption.json").read_text())["eval_result_details"]
            assert sum(one["full_absorption_rate"] is None for one in letters) >= 20
        last = json.loads((runs[1] / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["terms"]["silence"]["gradient_share"] > 0.01


def core(run: Path) -> dict[str, float]:
    result = json.loads((run / "eval" / "core.json").read_text())
    reference = result["eval_result_metrics"]
    return {**reference["sparsity"], **reference["reconstruction_quality"], **result["saepipe"]["metrics"]}


def test_the_report_and_the_whispering_run(done: Done) -> None:
    page = (done.folder / "report.html").read_text()
    for heading in ("Health", "Comparison", "Sparsity against quality", "Training"):
        assert f">{heading}<" in page
    (found,) = errors(Health.read(done.folder / "whisper" / "whisper" / "seed-0").findings)
    assert found.rule == "H1"
