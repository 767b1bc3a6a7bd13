"""How well a few latents tell classes of text apart, and how well the model's own activations do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from saepipe.evaluate.metrics.sparse_probing.answers import FULL
from saepipe.evaluate.metrics.sparse_probing.result_keys import PROBES, key_of
from saepipe.evaluate.report.chart import Chart, Section, Value
from saepipe.evaluate.report.charts.dots import Dot, Mark, dots
from saepipe.evaluate.report.charts.drawing import HEIGHT, Record, Series, Tables, altair, significant, tooltip
from saepipe.evaluate.report.story import Story
from saepipe.evaluate.report.variant_means import Mean, Variant, mean
from saepipe.evaluate.results.run_results import Cell

_NAME = "sparse_probing"
_ALL = "all"
_DENSE, _CHANNELS = "model, dense probe", "model, k channels"
_TEXT = (
    "Probes are given the k latents of an SAE that tell a class best, or k channels of the model's activations, or all "
    "of them. The dense probe reads all channels: what the model itself knows."
)
_OF_K = (
    "Test accuracy of probes against the number of latents they are given, mean over data sets, by variant. Bars are "
    "95 % intervals. In grey: probes of the model's own channels, and the dense probe as a line."
)
_BY_DATASET = (
    "Test accuracy of probes of 5 latents on each data set, by variant. Bars are 95 % intervals over test texts. The "
    "grey tick is the dense probe of the model."
)


def section(story: Story) -> Section:
    """Of the runs that were probed."""
    probed = [row.label for row in story.rows if _NAME in story.results[row.label]]
    charts = (_of_k(story), *_by_dataset(story)) if probed else ()
    missing = ", ".join(row.label for row in story.rows if row.label not in probed)
    absent = (f"Sparse probing was not measured of {missing}.",) if missing else ()
    return Section("probing", "Sparse probing", _TEXT if charts else "", charts, absent)


def _of_k(story: Story) -> Chart:
    points = [
        (variant.name, probe, variant.mean(key_of("sae", probe))) for variant in story.variants for probe in PROBES
    ]
    model = {probe: _of_model(story, key_of("llm", probe)) for probe in PROBES}
    points += [(_CHANNELS, probe, figure) for probe, figure in model.items()]
    rows: list[tuple[Value, ...]] = [
        (name, _k(probe), *map(significant, (figure.value, figure.low, figure.high)), figure.over, figure.why)
        for name, probe, figure in points
    ]
    drawn = _drawn(story, [(name, _k(probe), figure) for name, probe, figure in points], model[FULL])
    columns = ("variant", "k", "accuracy", "low", "high", "interval", "why not")
    return Chart("probing-accuracy", "Accuracy against k", _OF_K, drawn, columns, tuple(rows))


def _k(probe: str) -> str:
    return _ALL if probe == FULL else probe


def _of_model(story: Story, key: str) -> Mean:
    """A figure in which the SAE has no part: that of the first run that has it."""
    found = (Variant("", "", (row,)).mean(key) for row in story.rows if row.value(key) is not None)
    return next(found, Mean(None, why="not measured"))


def _drawn(story: Story, points: Sequence[tuple[str, str, Mean]], dense: Mean) -> dict[str, Any]:
    alt, tables = altair(), Tables()
    records: list[Record] = [
        {"variant": name, "k": k, "y": figure.value, "low": figure.low, "high": figure.high}
        for name, k, figure in points
        if figure.value is not None
    ]
    ks = [k for k in map(_k, (*PROBES[1:], FULL)) if any(record["k"] == k for record in records)]
    here = {record["variant"] for record in records}
    names = tuple(variant.name for variant in story.variants)
    references = (_DENSE, _CHANNELS)
    legend = (*(name for name in names if name in here), *references)
    series = Series("variant", names, references, legend, strokes=True)
    x = alt.X("k:O", title="k", sort=ks, axis=alt.Axis(labelAngle=0))
    y = alt.Y("y:Q", title="accuracy", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    offset = alt.XOffset("variant:N", sort=list(legend), scale=alt.Scale(paddingOuter=1))
    base = alt.Chart(tables.add(records)).encode(x=x, xOffset=offset, color=series.colour)
    shown = tooltip({"variant:N": "variant", "k:N": "k", "y:Q": "accuracy", "low:Q": "from", "high:Q": "to"})
    layers = [
        base.mark_line(strokeWidth=1.5, opacity=0.7).encode(y=y, strokeDash=series.dash),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=2, opacity=0.5)
        .encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q")),
        base.mark_point(filled=True, size=40, opacity=1).encode(y=y, tooltip=shown),
    ]
    if dense.value is not None:
        rule = alt.Chart(tables.add([{"variant": _DENSE, "y": dense.value}])).mark_rule(strokeWidth=2)
        layers.insert(0, rule.encode(y=y, color=series.colour, strokeDash=series.dash))
    return tables.spec(alt.layer(*layers), _OF_K, HEIGHT)


def _by_dataset(story: Story) -> Iterator[Chart]:
    """One chart, where some run has accuracies of single data sets."""
    found = {label: _datasets(results[_NAME]) for label, results in story.results.items() if _NAME in results}
    names = list(dict.fromkeys(name for datasets in found.values() for name in datasets))
    key, dense = key_of("sae", "5"), key_of("llm", FULL)
    seen: list[Dot] = []
    marks: list[Mark] = []
    for name in names:
        for variant in story.variants:
            cells = [
                found[row.label][name].get(key, Cell()) for row in variant.rows if name in found.get(row.label, {})
            ]
            seen += [Dot(name, variant.name, mean(cells))] if cells else []
        known = [cells[name][dense].value for cells in found.values() if name in cells and dense in cells[name]]
        marks += [Mark(name, fmean(value for value in known if value is not None))] if any(known) else []
    if any(dot.figure.value is not None for dot in seen):
        axes = ("data set", "accuracy")
        yield dots("probing-datasets", "Accuracy by data set", _BY_DATASET, story, seen, axes, marks, zero=False)


def _datasets(result: Mapping[str, Any]) -> dict[str, dict[str, Cell]]:
    """By data set and key."""
    found = {}
    for entry in result["eval_result_details"]:
        name = entry["dataset_name"].removesuffix("_results")
        intervals = result["saepipe"]["datasets"][name]["intervals"]
        found[name] = {
            key: Cell(value, *intervals.get(key, (None, None)))
            for key, value in entry.items()
            if key != "dataset_name" and value is not None
        }
    return found
