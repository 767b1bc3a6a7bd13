"""Sparsity against what it costs: L0 against each figure that people trade it for."""

from __future__ import annotations

from collections.abc import Sequence

from saepipe.evaluate.report.chart import Chart, Section, Value, slug
from saepipe.evaluate.report.charts.drawing import significant
from saepipe.evaluate.report.charts.pareto_plot import Point, plot
from saepipe.evaluate.report.story import Story
from saepipe.evaluate.report.variant_means import Variant
from saepipe.evaluate.results.run_results import Row

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
    better = story.shown[key].better
    missing = [f"{point.label} ({point.why})" for point in means if not point.drawn]
    said = [
        f"L0 against {name}, with 95 % intervals, coloured by penalty.",
        f"{better.capitalize()} is better." if better else "",
        _seen(means),
        f"Not drawn: {'; '.join(missing)}." if missing else "",
    ]
    description = " ".join(filter(None, said))
    return Chart(
        id=f"pareto-{slug(name)}",
        title=f"L0 against {name}",
        description=description,
        spec=plot(story, means, seeds, key, name, description),
        columns=_COLUMNS,
        rows=tuple(_line(point) for point in (*means, *seeds)),
    )


def _of_variant(variant: Variant, key: str) -> Point:
    num = len(variant.rows)
    label = variant.rows[0].label if num == 1 else f"{variant.name} (mean, n={num})"
    return Point(label, variant, variant.rows[0], variant.mean("l0"), variant.mean(key))


def _of_run(row: Row, variant: Variant, key: str) -> Point:
    alone = Variant(variant.name, variant.penalty, (row,))
    return Point(row.label, variant, row, alone.mean("l0"), alone.mean(key))


def _seen(means: Sequence[Point]) -> str:
    """The ends of what is drawn, in words."""
    drawn = sorted((point for point in means if point.drawn), key=lambda point: point.l0.value or 0.0)
    ends = drawn if len(drawn) < 2 else (drawn[0], drawn[-1])
    told = (f"{point.label} has {point.figure.value:.3g} at L0 {point.l0.value:.3g}" for point in ends)
    return f"{'; '.join(told)}." if ends else ""


def _line(point: Point) -> tuple[Value, ...]:
    numbers = (point.l0.value, point.l0.low, point.l0.high, point.figure.value, point.figure.low, point.figure.high)
    over = point.figure.over
    return point.label, point.variant.penalty, *map(significant, numbers), over, point.why
