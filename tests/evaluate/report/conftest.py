"""Pages of made-up runs and charts, as the report puts them together."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluations import write_core, write_run
from saepipe.data.health import Finding, Health
from saepipe.evaluate.compare import compare
from saepipe.evaluate.report.chart import Chart, Section, slug
from saepipe.evaluate.report.page import Page, RunBlock, grouped

INERT = Finding("H1", "warning", "l1 never had a gradient: give it a weight", "l1")


def pareto(labels: list[str]) -> Chart:
    """L0 against explained variance; a point leads to its run."""
    rows = tuple((label, 10.0 * 1.4**place, 1 - 0.5 / (place + 2)) for place, label in enumerate(labels))
    values = [{"run": run, "l0": l0, "ev": ev, "url": f"#run-{slug(run)}"} for run, l0, ev in rows]
    x = {"field": "l0", "type": "quantitative", "scale": {"type": "log"}, "title": "L0"}
    y = {"field": "ev", "type": "quantitative", "scale": {"zero": False}, "title": "explained variance"}
    encoding = {
        "x": x,
        "y": y,
        "href": {"field": "url"},
        "tooltip": [{"field": "run"}, {"field": "l0"}],
        "color": {"field": "run", "type": "nominal"},
    }
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.4.1.json",
        "data": {"values": values},
        "mark": {"type": "point", "filled": True, "size": 90},
        "encoding": encoding,
        "width": "container",
        "height": 240,
    }
    text = "Reconstruction against sparsity: up and to the left is better."
    return Chart("pareto-ev", "Explained variance against L0", text, spec, ("run", "L0", "explained variance"), rows)


def curves(labels: list[str], name: str, num_steps: int = 40) -> Chart:
    """A figure over steps, a line a run."""
    rows = tuple(
        (label, step * 100, math.exp(-step / (5 + place)) + 0.05 * math.sin(step + place))
        for place, label in enumerate(labels)
        for step in range(num_steps)
    )
    values = [{"run": run, "step": step, "value": value} for run, step, value in rows]
    encoding = {
        "x": {"field": "step", "type": "quantitative"},
        "y": {"field": "value", "type": "quantitative", "title": name},
        "color": {"field": "run", "type": "nominal"},
    }
    spec = {"data": {"values": values}, "mark": "line", "encoding": encoding, "width": "container", "height": 220}
    return Chart(
        f"over-steps-{name}", f"{name} over steps", f"{name} at each logged step.", spec, ("run", "step", name), rows
    )


@pytest.fixture(scope="module")
def make_page(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Page]:
    """A page on `num_runs` runs of names that begin with `name`, half of them with a finding where `ill`."""

    def make(
        num_runs: int = 4, name: str = "l1", *, ill: bool = True, title: str = "Penalties", steps: int = 40
    ) -> Page:
        folder = tmp_path_factory.mktemp("runs")
        runs = []
        for place in range(num_runs):
            health = Health((INERT,)) if ill and place % 2 else None
            path = folder / f"{name}={place}" / "seed-0"
            write_run(path, health=health, penalties=[{"name": "l1", "weight": place + 1.0}])
            runs.append(write_core(path, l0=10.0 + 5 * place, ev=0.8 + 0.1 * place / num_runs))
        return page_on(runs, title, steps)

    return make


def page_on(runs: list[Path], title: str, steps: int) -> Page:
    table = compare(runs)
    labels = [row[0] for row in table.rows if isinstance(row[0], str)]
    ill = labels[1::2] if any(INERT.message in note for note in table.notes) else []
    charts = tuple(curves(labels, name, steps) for name in ("L0", "FVU", "loss", "dead"))
    config = "sae:\n  name: relu\n  d_sae: 8\n"
    facts = (("model", "google/gemma-2-2b at c5ebcd40d208"), ("commit", "tests"))
    return Page(
        title=title,
        summary=f"{len(labels)} runs of one cache.",
        findings=grouped([(label, INERT) for label in ill]),
        unseen=None,
        table=table,
        sections=(
            Section("pareto", "Sparsity against quality", "Each point is a run.", (pareto(labels),)),
            Section("training", "Training", "What was logged.", charts, ("No absorption: it was not evaluated.",)),
        ),
        runs=tuple(RunBlock(label, "ok", (INERT,) if label in ill else (), facts, config) for label in labels),
        differences=(("key", *labels), ("penalties.l1.weight", *(f"{place + 1.0}" for place in range(len(labels))))),
        chain=(("Model and text", facts),),
        written_by="Written by saepipe 0.1.0 (commit tests).",
    )
