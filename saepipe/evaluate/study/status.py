"""Where a study stands: what is made, arm by arm, in one table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table

from saepipe.data.folders.artifact import is_committed
from saepipe.data.remote.places import folder_of, refresh
from saepipe.evaluate.study.arm_configs import Arm, arms_of
from saepipe.evaluate.study.config import StudyConfig
from saepipe.evaluate.study.record import Record
from saepipe.evaluate.study.run import PARAGRAPH
from saepipe.evaluate.study.train_arms import Study, measured_l0s


def status(config: StudyConfig, out: Path) -> dict[str, Any]:
    """Returns what is made of a study at `out`, as plain data."""
    refresh(out := folder_of(out))
    study, record = Study(config, tuple(arms_of(config)), out), Record.read(out)
    l0s, again = measured_l0s(study, study.arms), study.trained_to(record)
    return {
        "question": config.question,
        "cache": "ready" if is_committed(study.cache) else "not made yet",
        "arms": {
            arm.label: _of_arm(study, arm) | {"l0": l0s.get(arm.label), "trained_again": arm.label in again}
            for arm in study.arms
        },
        "verdict": (out / PARAGRAPH).read_text() if (out / PARAGRAPH).exists() else None,
    }


def _of_arm(study: Study, arm: Arm) -> dict[str, Any]:
    seeds = study.config.all_seeds
    runs = study.runs([arm], seeds)
    metrics = [metric.name for metric in study.config.evaluate.metrics]
    return {
        "trained": sum(map(is_committed, runs)),
        "evaluated": sum((run / "eval" / f"{name}.json").exists() for run in runs for name in metrics) // len(metrics),
        "seeds": len(seeds),
    }


def render(standing: dict[str, Any]) -> Iterator[RenderableType]:
    """Yields the standing as one screen."""
    yield standing["question"]
    yield f"cache: {standing['cache']}"
    table = Table("arm", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("trained", "evaluated", "L0"):
        table.add_column(heading, justify="right")
    for label, of in standing["arms"].items():
        l0 = "-" if of["l0"] is None else f"{of['l0']:.3g}"
        again = ", trained again" if of["trained_again"] else ""
        table.add_row(label, *(f"{of[key]} of {of['seeds']}" for key in ("trained", "evaluated")), f"{l0}{again}")
    yield table
    yield standing["verdict"] or "no verdict yet: run `saepipe study` again to go on"
