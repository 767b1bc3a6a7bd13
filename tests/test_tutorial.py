"""docs/tutorial.md: its files are saved, its commands run in order, and their output is compared with the page."""

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
class Tutorial:
    """The folder after the last block, the number of commands, and output on the page that no command printed."""

    folder: Path
    commands: int = 0
    missing: list[str] = field(default_factory=list)  # lines of text blocks that the last command did not print


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Tutorial:
    tutorial = Tutorial(tmp_path_factory.mktemp("tutorial"))
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": tools, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"}
    printed = ""
    for block in BLOCK.finditer(PAGE.read_text()):
        file, kind, text = block.groups()
        if file:
            (tutorial.folder / file).write_text(text)
        elif kind == "sh":
            process = subprocess.run(
                ["bash", "-ec", text], cwd=tutorial.folder, env=environment, capture_output=True, text=True, check=False
            )
            assert process.returncode == 0, f"{text}\n{process.stdout}\n{process.stderr}"
            tutorial.commands += 1
            printed = process.stdout + process.stderr
        else:
            assert kind == "text"
            tutorial.missing += [line for line in text.splitlines() if plain(line) not in plain(printed)]
    return tutorial


def plain(text: str) -> str:
    """Replaces what differs between machines: numbers, the widths of columns, and verdicts.

    A processor with other instructions rounds otherwise, and the interval of delta CE ends close to 0.
    """
    without_numbers = re.sub(r"[+-]?\d[\d.,]*(e[+-]?\d+)?", "#", text)
    return " ".join(re.sub(r"(worse|better|within noise)( [†‡§])*", "VERDICT", without_numbers).split())


def test_every_block_of_the_page_is_used() -> None:
    blocks = [(block["file"], block["kind"]) for block in BLOCK.finditer(PAGE.read_text())]
    assert [file for file, _ in blocks if file] == ["silence.py", "harvest.yaml", "study.yaml"]
    assert 2 * len(blocks) == PAGE.read_text().count("\n```")
    assert all(file or kind in ("sh", "text") for file, kind in blocks)


def test_every_command_prints_what_the_page_shows(tutorial: Tutorial) -> None:
    assert tutorial.commands == 6
    assert tutorial.missing == []


def test_the_study_has_the_differences_that_the_page_describes(tutorial: Tutorial) -> None:
    for seed in SEEDS:
        runs = [tutorial.folder / "runs" / variant / f"seed-{seed}" for variant in ("baseline", "silence")]
        before, after = (core(run) for run in runs)
        assert abs(after["l0"] - before["l0"]) < 0.05 * before["l0"]  # comparable
        assert 0.002 < before["explained_variance"] - after["explained_variance"] < 0.03
        assert 0.005 < after["delta_ce"] - before["delta_ce"] < 0.1
        for run in runs:
            letters = json.loads((run / "eval" / "absorption.json").read_text())["eval_result_details"]
            assert sum(letter["full_absorption_rate"] is None for letter in letters) >= 20
        last = json.loads((runs[1] / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["terms"]["silence"]["gradient_share"] > 0.01


def core(run: Path) -> dict[str, float]:
    result = json.loads((run / "eval" / "core.json").read_text())
    reference = result["eval_result_metrics"]
    return {**reference["sparsity"], **reference["reconstruction_quality"], **result["saepipe"]["metrics"]}


def test_the_report_and_the_run_with_a_tiny_weight(tutorial: Tutorial) -> None:
    page = (tutorial.folder / "report.html").read_text()
    for heading in ("Verdicts", "Sparsity against quality", "Health", "Training"):
        assert f">{heading}<" in page
    (finding,) = errors(Health.read(tutorial.folder / "whisper" / "whisper" / "seed-0").findings)
    assert finding.rule == "H1"
