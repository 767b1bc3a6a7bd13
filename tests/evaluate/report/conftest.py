"""Report pages of made-up runs and charts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.made_results import write_core, write_run
from helpers.made_stories import write_absorption, write_geometry, write_log, write_probing, write_study
from saepipe.data.folders.health import Finding, Health
from saepipe.evaluate.report.chart import Chart, Section, anchor
from saepipe.evaluate.report.page import Page
from saepipe.evaluate.report.story import Story

Maker = Callable[..., Page]


def pareto(labels: list[str]) -> Chart:
    """L0 against explained variance; each point links to its run."""
    rows = tuple((label, 10.0 * 1.4**index, 1 - 0.5 / (index + 2)) for index, label in enumerate(labels))
    values = [{"run": run, "l0": l0, "ev": ev, "url": f"#{anchor(run)}"} for run, l0, ev in rows]
    encoding = {
        "x": {"field": "l0", "type": "quantitative", "scale": {"type": "log"}, "title": "L0"},
        "y": {"field": "ev", "type": "quantitative", "scale": {"zero": False}, "title": "explained variance"},
        "href": {"field": "url"},
        "tooltip": [{"field": "run"}, {"field": "l0"}],
        "color": {"field": "run", "type": "nominal"},
    }
    mark = {"type": "point", "filled": True, "size": 90}
    spec = {"data": {"values": values}, "mark": mark, "encoding": encoding, "width": "container", "height": 240}
    text = "Reconstruction against sparsity: up and to the left is better."
    return Chart("pareto-ev", "Explained variance against L0", text, spec, ("run", "L0", "explained variance"), rows)


def curves(labels: list[str], name: str, num_steps: int) -> Chart:
    """A figure over steps, one line per run."""
    rows = tuple(
        (label, step * 100, math.exp(-step / (5 + index)) + 0.05 * math.sin(step + index))
        for index, label in enumerate(labels)
        for step in range(num_steps)
    )
    values = [{"run": run, "step": step, "value": value} for run, step, value in rows]
    encoding = {
        "x": {"field": "step", "type": "quantitative"},
        "y": {"field": "value", "type": "quantitative", "title": name},
        "color": {"field": "run", "type": "nominal"},
    }
    spec = {"data": {"values": values}, "mark": "line", "encoding": encoding, "width": "container", "height": 220}
    return Chart(f"steps-{name}", f"{name} over steps", f"{name}, step by step.", spec, ("run", "step", name), rows)


@pytest.fixture(scope="module")
def make_page(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Pages of runs `<name>=0`, `<name>=1`, ...; every second run has the findings."""

    def make(name: str = "l1", findings: tuple[Finding, ...] = (), num_runs: int = 4, title: str = "Penalties") -> Page:
        folder, runs = tmp_path_factory.mktemp("runs"), []
        for index in range(num_runs):
            path, health = folder / f"{name}={index}" / "seed-0", Health(findings if index % 2 else ())
            write_run(path, health=health, penalties=[{"name": "l1", "weight": index + 1.0}])
            runs.append(write_core(path, l0=10.0 + 5 * index, ev=0.8 + 0.1 * index / num_runs))
        return page_on(runs, title)

    return make


def page_on(runs: list[Path], title: str) -> Page:
    story = Story.read(runs)
    labels = [row.label for row in story.rows]
    charts = tuple(curves(labels, name, 40) for name in ("L0", "FVU", "loss", "dead"))
    sections = (
        Section("pareto", "Sparsity against quality", "Each point is a run.", (pareto(labels),)),
        Section("training", "Training", "What was logged.", charts, ("No absorption: it was not evaluated.",)),
    )
    sentences = ("Some runs of one cache.", "There is no verdict yet.", "The rules found nothing.")
    return Page(title, sentences, story, None, sections, "Written by saepipe 0.1.0 (commit tests).")


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Three seeds of `l1`, `placebo` and `ortsae`, as `write_study` writes them."""
    return write_study(tmp_path_factory.mktemp("verdicts"))


@pytest.fixture(scope="session")
def judged(study: dict[str, list[Path]]) -> Story:
    """Reads the study, compared with `l1`."""
    return Story.read([run for runs in study.values() for run in runs], study["l1"][0])


@pytest.fixture(scope="module")
def make_study(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], list[Path]]:
    """Finished runs with logs of `num_lines` lines and every evaluation that has charts."""

    def make(num_runs: int, num_lines: int) -> list[Path]:
        folder, runs = tmp_path_factory.mktemp("study"), []
        for index in range(num_runs):
            run = write_run(folder / f"l1={index}" / "seed-0", penalties=[{"name": "l1", "weight": index + 1.0}])
            rng = random.Random(index)
            terms = [[(rng.uniform(1, 9), rng.random()) for _ in range(num_lines)] for _ in range(2)]
            write_log(run, dict(zip(("reconstruction", "l1"), terms, strict=True)), every=100)
            write_core(run, l0=10.0 + 5 * index, ev=0.8 + 0.1 * index / num_runs)
            write_geometry(run, {index: 3, 5: 5}, {2: 5, 7: 3})
            write_absorption(run, dict.fromkeys("abcdefghijklmnopqrst", (index % 4, 20)) | {"x": "too few"})
            runs.append(write_probing(run, 0.8 + index / 100))
        return runs

    return make
