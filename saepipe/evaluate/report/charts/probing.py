"""Accuracy of probes of a few latents, compared with probes of the model's own activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from saepipe.evaluate.compare.variant_means import Mean, Variant, mean
from saepipe.evaluate.metrics.sparse_probing.probe_keys import FULL, PROBES, result_key
from saepipe.evaluate.report.chart import Chart, Section, Value
from saepipe.evaluate.report.charts.dots import Dot, Mark, dots
from saepipe.evaluate.report.charts.drawing import HEIGHT, Record, Series, Tables, altair, rounded, tooltip
from saepipe.evaluate.report.story import Story
from saepipe.evaluate.results.run_results import Cell

_NAME = "sparse_probing"
_ALL = "all"
_DENSE, _CHANNELS = "model, dense probe", "model, k channels"
_TEXT = (
    "Probes read the k latents of an SAE that best separate a class, or k channels of the model's activations, or all "
    "of them. The dense probe reads all channels: it shows what the model itself knows."
)
_OF_K = (
    "Test accuracy of probes against the number of latents they read, mean over datasets, by variant. Bars are 95 % "
    "intervals. In grey: probes of the model's channels, and the dense probe as a line."
)
_BY_DATASET = (
    "Test accuracy of probes of 5 latents on each dataset, by variant. Bars are 95 % intervals over test texts. The "
    "grey tick is the model's dense probe."
)


def section(story: Story) -> Section:
    """Returns the section, with charts of the runs that were probed."""
    probed = [row.label for row in story.rows if _NAME in story.results[row.label]]
    charts = (_of_k(story), *_by_dataset(story)) if probed else ()
    missing = ", ".join(row.label for row in story.rows if row.label not in probed)
    absent = (f"Sparse probing was not measured for {missing}.",) if missing else ()
    return Section("probing", "Sparse probing", _TEXT if charts else "", charts, absent)


def _of_k(story: Story) -> Chart:
    points = [
        (variant.name, probe, variant.mean(result_key("sae", probe))) for variant in story.variants for probe in PROBES
    ]
    model = {probe: _of_model(story, result_key("llm", probe)) for probe in PROBES}
    points += [(_CHANNELS, probe, figure) for probe, figure in model.items()]
    rows: list[tuple[Value, ...]] = [
        (name, _k(probe), *map(rounded, (figure.value, figure.low, figure.high)), figure.over, figure.why)
        for name, probe, figure in points
    ]
    spec = _spec(story, [(name, _k(probe), figure) for name, probe, figure in points], model[FULL])
    columns = ("variant", "k", "accuracy", "low", "high", "interval", "reason")
    return Chart("probing-accuracy", "Accuracy against k", _OF_K, spec, columns, tuple(rows))


def _k(probe: str) -> str:
    return _ALL if probe == FULL else probe


def _of_model(story: Story, key: str) -> Mean:
    """Returns a figure that does not depend on the SAE, from the first run that has it."""
    means = (Variant("", "", (row,)).mean(key) for row in story.rows if row.value(key) is not None)
    return next(means, Mean(None, why="not measured"))


def _spec(story: Story, points: Sequence[tuple[str, str, Mean]], dense: Mean) -> dict[str, Any]:
    alt, tables = altair(), Tables()
    records: list[Record] = [
        {"variant": name, "k": k, "y": figure.value, "low": figure.low, "high": figure.high}
        for name, k, figure in points
        if figure.value is not None
    ]
    ks = [k for k in map(_k, (*PROBES[1:], FULL)) if any(record["k"] == k for record in records)]
    shown = {record["variant"] for record in records}
    names = tuple(variant.name for variant in story.variants)
    references = (_DENSE, _CHANNELS)
    legend = (*(name for name in names if name in shown), *references)
    series = Series("variant", names, references, legend, strokes=True)
    x = alt.X("k:O", title="k", sort=ks, axis=alt.Axis(labelAngle=0))
    y = alt.Y("y:Q", title="accuracy", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    offset = alt.XOffset("variant:N", sort=list(legend), scale=alt.Scale(paddingOuter=1))
    base = alt.Chart(tables.add(records)).encode(x=x, xOffset=offset, color=series.colour)
    hover = tooltip({"variant:N": "variant", "k:N": "k", "y:Q": "accuracy", "low:Q": "from", "high:Q": "to"})
    layers = [
        base.mark_line(strokeWidth=1.5).encode(y=y, strokeDash=series.dash),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=2)
        .encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_point(filled=True, size=40, opacity=1).encode(y=y, tooltip=hover),
    ]
    if dense.value is not None:
        rule = alt.Chart(tables.add([{"variant": _DENSE, "y": dense.value}])).mark_rule(strokeWidth=2)
        layers.insert(0, rule.encode(y=y, color=series.colour, strokeDash=series.dash))
    return tables.spec(alt.layer(*layers), _OF_K, HEIGHT)


def _by_dataset(story: Story) -> Iterator[Chart]:
    """Yields one chart if any run has accuracies of single datasets."""
    accuracies = {label: _datasets(results[_NAME]) for label, results in story.results.items() if _NAME in results}
    names = list(dict.fromkeys(name for datasets in accuracies.values() for name in datasets))
    key, dense = result_key("sae", "5"), result_key("llm", FULL)
    points: list[Dot] = []
    marks: list[Mark] = []
    for name in names:
        for variant in story.variants:
            datasets = [accuracies.get(row.label, {}) for row in variant.rows]
            cells = [cells_of[name].get(key, Cell()) for cells_of in datasets if name in cells_of]
            points += [Dot(name, variant.name, mean(cells))] if cells else []
        values = [cells[name][dense].value for cells in accuracies.values() if name in cells and dense in cells[name]]
        marks += [Mark(name, fmean(value for value in values if value is not None))] if any(values) else []
    if any(dot.figure.value is not None for dot in points):
        axes = ("dataset", "accuracy")
        yield dots("probing-datasets", "Accuracy by dataset", _BY_DATASET, story, points, axes, marks, zero=False)


def _datasets(result: Mapping[str, Any]) -> dict[str, dict[str, Cell]]:
    """Returns the cells by dataset and key."""
    cells = {}
    for entry in result["eval_result_details"]:
        name = entry["dataset_name"].removesuffix("_results")
        intervals = result["saepipe"]["datasets"][name]["intervals"]
        cells[name] = {
            key: Cell(value, *intervals.get(key, (None, None)))
            for key, value in entry.items()
            if key != "dataset_name" and value is not None
        }
    return cells
