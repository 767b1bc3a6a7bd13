"""Sparsity against what it costs: L0 against each figure that people trade it for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saepipe.evaluate.report.chart import Chart, Section, Value, slug
from saepipe.evaluate.report.charts.drawing import Record, Series, altair, quantity, significant, spec, table, tooltip
from saepipe.evaluate.report.story import Story
from saepipe.evaluate.report.variants import Mean, Variant
from saepipe.evaluate.results import Row
from saepipe.evaluate.sweeps import method

_FIGURES = {
    "explained_variance": "explained variance",
    "ce_loss_score": "loss recovered",
    "mean_absorption_fraction_score": "absorption fraction",
    "mean_full_absorption_score": "full absorption",
    "sae_top_1_test_accuracy": "accuracy of probes of 1 latent",
    "sae_top_5_test_accuracy": "accuracy of probes of 5 latents",
}
_TEXT = (
    "A strong point is a variant: the mean of its seeds, which are the faint points. Lines join what differs in "
    "nothing but how sparse it is. Bars are 95 % intervals: over training seeds where there are three or more, else "
    "of evaluation noise alone, which says nothing of another seed. Hover over a point for the settings in which it "
    "differs; click it to open its run."
)
_COLUMNS = ("run", "penalty", "L0", "L0 low", "L0 high", "value", "low", "high", "interval", "why not")


@dataclass(frozen=True)
class _Point:
    """A variant's mean, or one of its seeds."""

    label: str
    variant: Variant
    row: Row
    """The run that a click opens."""
    l0: Mean
    figure: Mean

    @property
    def drawn(self) -> bool:
        return self.l0.value is not None and self.figure.value is not None

    @property
    def why(self) -> str | None:
        """Why it is not drawn."""
        reasons = [f"{name}: {one.why}" for name, one in (("L0", self.l0), ("it", self.figure)) if one.value is None]
        return None if self.drawn else "; ".join(reasons)


def section(story: Story) -> Section:
    """A plot for each figure that some run has."""
    charts, absent = [], []
    for key, name in _FIGURES.items():
        made = _chart(story, key, name)
        if isinstance(made, Chart):
            charts.append(made)
        else:
            absent.append(made)
    return Section("pareto", "Sparsity against quality", _TEXT if charts else "", tuple(charts), tuple(absent))


def _chart(story: Story, key: str, name: str) -> Chart | str:
    """The plot, or why there is none."""
    means = [_of_variant(variant, key) for variant in story.variants]
    seeds = [_of_run(row, variant, key) for variant in story.variants if len(variant.rows) > 1 for row in variant.rows]
    if not any(point.drawn for point in (*means, *seeds)):
        reasons = dict.fromkeys(point.why for point in means if point.why)
        return f"L0 against {name} is not drawn: {'; '.join(filter(None, reasons))}."
    how = story.shown[key].better
    better = f"{how.capitalize()} is better. " if how else ""
    missing = [f"{point.label} ({point.why})" for point in means if not point.drawn]
    left_out = f" Not drawn: {'; '.join(missing)}." if missing else ""
    description = f"L0 against {name}, with 95 % intervals, coloured by penalty. {better}{_seen(means)}{left_out}"
    return Chart(
        id=f"pareto-{slug(name)}",
        title=f"L0 against {name}",
        description=description.strip(),
        spec=spec(_drawn(story, means, seeds, name, how), description.strip()),
        columns=_COLUMNS,
        rows=tuple(_line(point) for point in (*means, *seeds)),
    )


def _of_variant(variant: Variant, key: str) -> _Point:
    num = len(variant.rows)
    label = variant.rows[0].label if num == 1 else f"{variant.name} (mean, n={num})"
    return _Point(label, variant, variant.rows[0], variant.mean("l0"), variant.mean(key))


def _of_run(row: Row, variant: Variant, key: str) -> _Point:
    alone = Variant(variant.name, variant.penalty, (row,))
    return _Point(row.label, variant, row, alone.mean("l0"), alone.mean(key))


def _seen(means: Sequence[_Point]) -> str:
    """The ends of what is drawn, in words."""
    drawn = sorted((point for point in means if point.drawn), key=lambda point: point.l0.value or 0.0)
    ends = drawn if len(drawn) < 2 else (drawn[0], drawn[-1])
    told = (f"{point.label} has {point.figure.value:.3g} at L0 {point.l0.value:.3g}" for point in ends)
    return f"{'; '.join(told)}." if ends else ""


def _line(point: _Point) -> tuple[Value, ...]:
    numbers = (point.l0.value, point.l0.low, point.l0.high, point.figure.value, point.figure.low, point.figure.high)
    over = point.figure.over
    return point.label, point.variant.penalty, *map(significant, numbers), over, point.why


def _drawn(story: Story, means: Sequence[_Point], seeds: Sequence[_Point], name: str, better: str | None) -> Any:
    alt = altair()
    every = [_record(point, story) for point in (*means, *seeds) if point.drawn]
    strong, faint = every[: sum(point.drawn for point in means)], every[sum(point.drawn for point in means) :]
    x = quantity("X", "x", "L0", [record[key] for record in every for key in ("x", "x_low", "x_high")])
    y = quantity("Y", "y", name, [record["y"] for record in every], zero=better == "lower")
    series = _penalties(story)
    shown = tooltip(
        {
            "run:N": "run",
            "penalty:N": "penalty",
            "x:Q": "L0",
            "y:Q": name,
            "interval:N": "95 % interval",
            "over:N": "over",
        }
        | {f"setting_{place}:N": key for place, key in enumerate(story.differing)}
    )
    points = alt.Chart().mark_point(filled=True).encode(x=x, y=y, color=series.colour, shape=series.shape, href="url:N")
    layers = [
        alt.Chart(table(_sweeps(means)))
        .mark_line(opacity=0.35, strokeWidth=1.5)
        .encode(x=x, y=y, color=series.colour, detail="sweep:N", order="x:Q"),
        *_bars(strong, x, y, series),
        points.properties(data=table(faint)).encode(opacity=alt.value(0.35), size=alt.value(40), tooltip=shown),
        points.properties(data=table(strong)).encode(opacity=alt.value(1.0), size=alt.value(110), tooltip=shown),
    ]
    return alt.layer(*layers)


def _bars(records: Sequence[Record], x: Any, y: Any, series: Series) -> Iterator[Any]:
    """Both intervals of each point."""
    alt = altair()
    bar = alt.Chart(table(records)).mark_rule(strokeWidth=2, opacity=0.6).encode(color=series.colour)
    low, high = alt.Y("y_low:Q"), alt.Y2("y_high:Q")
    yield bar.transform_filter("isValid(datum.y_low)").encode(x=x, y=low, y2=high)
    yield bar.transform_filter("isValid(datum.x_low)").encode(y=y, x=alt.X("x_low:Q"), x2=alt.X2("x_high:Q"))


def _penalties(story: Story) -> Series:
    ours = dict.fromkeys(variant.penalty for variant in story.variants if not variant.imported)
    theirs = dict.fromkeys(variant.penalty for variant in story.variants if variant.imported)
    return Series("penalty", tuple(ours), tuple(theirs))


def _sweeps(means: Sequence[_Point]) -> list[Record]:
    return [
        {"x": point.l0.value, "y": point.figure.value, "penalty": point.variant.penalty, "sweep": sweep}
        for sweep, points in enumerate(_methods(means).values())
        if len(points) > 1
        for point in points
    ]


def _methods(means: Sequence[_Point]) -> Mapping[str, list[_Point]]:
    """The points of each sweep, by what they have in common."""
    found: dict[str, list[_Point]] = {}
    for point in means:
        if point.drawn and not point.variant.imported:
            found.setdefault(method(point.variant.rows), []).append(point)
    return found


def _record(point: _Point, story: Story) -> Record:
    l0, figure = point.l0, point.figure
    interval = f"{figure.low:.4g} to {figure.high:.4g}" if figure.low is not None else "none"
    record: Record = {
        "run": point.label,
        "penalty": point.variant.penalty,
        "x": l0.value,
        "x_low": l0.low,
        "x_high": l0.high,
        "y": figure.value,
        "y_low": figure.low,
        "y_high": figure.high,
        "interval": interval,
        "over": {"seeds": "training seeds", "evaluation": "evaluation noise", None: "-"}[figure.over],
        "url": f"#run-{slug(point.row.label)}",
    }
    settings = story.differences(point.row).values()
    return record | {f"setting_{place}": value for place, value in enumerate(settings)}
