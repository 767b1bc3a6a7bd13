"""Runs with chosen configs, and access to the parts of charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from helpers.made_results import write_run
from saepipe.evaluate.report.chart import Chart, Section

HOOK = "blocks.1.hook_resid_post"


def run(folder: Path, name: str, seed: int = 0, weight: float = 1.0, **changes) -> Path:
    changes = {"penalties": [{"name": "l1", "weight": weight}]} | changes
    return write_run(folder / name / f"seed-{seed}", **changes)


def charts_of(section: Section) -> dict[str, Chart]:
    return {chart.id: chart for chart in section.charts}


def table(chart: Chart) -> list[dict[str, Any]]:
    return [dict(zip(chart.columns, row, strict=True)) for row in chart.rows]


def marks(chart: Chart) -> list[str]:
    return [layer["mark"]["type"] for layer in chart.spec["layer"]]


def values_under(spec: Any, key: str) -> Iterator[Any]:
    """Yields every value under `key`, at any depth."""
    if isinstance(spec, Mapping):
        yield from (value for name, value in spec.items() if name == key)
        for value in spec.values():
            yield from values_under(value, key)
    elif isinstance(spec, list):
        for value in spec:
            yield from values_under(value, key)
