"""Pareto plots: L0 against each figure that it is traded for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from saepipe.evaluate.compare.proxy_l0 import PROXY, ProxyL0, proxy_l0s
from saepipe.evaluate.compare.variant_means import Mean, Variant
from saepipe.evaluate.report.browser_links import BrowserLinks
from saepipe.evaluate.report.chart import Chart, Section, Value, anchor, slug
from saepipe.evaluate.report.charts.drawing import rounded
from saepipe.evaluate.report.charts.pareto_plot import Point, plot
from saepipe.evaluate.report.story import Story
from saepipe.evaluate.results.run_results import Row

_FIGURES = {
    "explained_variance": "explained variance",
    "ce_loss_score": "loss recovered",
    "frac_dead": "dead share",
    "mean_absorption_fraction_score": "absorption fraction",
    "mean_full_absorption_score": "full absorption",
    "sae_top_1_test_accuracy": "accuracy of probes of 1 latent",
    "sae_top_5_test_accuracy": "accuracy of probes of 5 latents",
}
_OVERLAP = "mean |cosine| of decoder rows"
_TEXT = (
    "Each large point is a variant: the mean of its seeds, which are the small points. Lines join variants that "
    "differ in sparsity alone. Bars are 95 % intervals: over training seeds if there are three or more, otherwise over "
    "evaluation noise only, which does not cover variation between seeds. Hover over a point for the settings in "
    "which it differs; click it to open its run"
)
_COLUMNS = ("run", "penalty", "L0", "L0 low", "L0 high", "value", "low", "high", "interval", "reason")


def section(story: Story, browser: BrowserLinks | None = None) -> Section:
    """Returns the section, with one plot per figure that any run has; points lead to the feature browser if given.

    The proxy of the right L0 has a plot if it was measured over a sweep.
    """
    charts, absent = [], []
    proxies = tuple(proxy_l0s([variant.rows for variant in story.variants]))
    for key, name in {**_FIGURES, **({PROXY: _OVERLAP} if proxies else {})}.items():
        chart = _chart(story, key, name, browser, proxies if key == PROXY else ())
        if isinstance(chart, Chart):
            charts.append(chart)
        else:
            absent.append(chart)
    text = f"{_TEXT} in the feature browser." if browser else f"{_TEXT}."
    return Section("pareto", "Sparsity against quality", text if charts else "", tuple(charts), tuple(absent))


def _chart(story: Story, key: str, name: str, browser: BrowserLinks | None, proxies: Sequence[ProxyL0]) -> Chart | str:
    """Returns the plot, with the minima that `proxies` found in it, or why there is none."""
    means = [_of_variant(variant, key, browser) for variant in story.variants]
    several = [variant for variant in story.variants if len(variant.rows) > 1]
    seeds = [_of_run(row, variant, key, browser) for variant in several for row in variant.rows]
    if not any(point.plottable for point in (*means, *seeds)):
        reasons = dict.fromkeys(point.why for point in means if point.why)
        return f"No plot of L0 against {name}: {'; '.join(filter(None, reasons))}."
    if not any(point.figure.value for point in (*means, *seeds)):
        return f"No plot of L0 against {name}: it is 0 in every run."
    better = story.shown[key].better
    missing = [f"{point.variant.name} ({point.why})" for point in means if not point.plottable]
    sentences = [
        f"L0 against {name}, with 95 % intervals.",
        f"{better.capitalize()} is better." if better else "",
        _range(means),
        *(f"In the {proxy}." for proxy in proxies),
        f"Not shown: {'; '.join(missing)}." if missing else "",
    ]
    description = " ".join(filter(None, sentences))
    return Chart(
        id=f"pareto-{slug(name)}",
        title=f"L0 against {name}",
        description=description,
        spec=plot(story, means, seeds, key, name, description, [proxy.middle for proxy in proxies if proxy.by_seed]),
        columns=_COLUMNS,
        rows=tuple(_table_row(point) for point in (*means, *seeds)),
    )


def _of_variant(variant: Variant, key: str, browser: BrowserLinks | None) -> Point:
    num, first = len(variant.rows), variant.rows[0]
    label = first.label if num == 1 else f"{variant.name} (mean, n={num})"
    return Point(label, variant, first, _url(first, browser), variant.mean("l0"), _mean(variant, key))


def _of_run(row: Row, variant: Variant, key: str, browser: BrowserLinks | None) -> Point:
    alone = Variant(variant.name, variant.penalty, (row,))
    return Point(row.label, variant, row, _url(row, browser), alone.mean("l0"), _mean(alone, key))


def _url(row: Row, browser: BrowserLinks | None) -> str:
    """Returns the address of a run: in the feature browser, or its block of the page."""
    return browser.run(row) if browser else f"#{anchor(row.label)}"


def _mean(variant: Variant, key: str) -> Mean:
    """Returns the mean of a figure; that of the dead share also from the share that is alive, which core measures."""
    mean = variant.mean(key)
    if key != "frac_dead" or mean.value is not None:
        return mean
    alive = variant.mean("frac_alive")
    value, low, high = (None if end is None else 1.0 - end for end in (alive.value, alive.high, alive.low))
    return replace(alive, value=value, low=low, high=high)


def _range(means: Sequence[Point]) -> str:
    """Describes the plotted points of lowest and highest L0 in a sentence."""
    plotted = sorted((point for point in means if point.plottable), key=lambda point: point.l0.value or 0.0)
    ends = plotted if len(plotted) < 2 else (plotted[0], plotted[-1])
    values = (f"{point.variant.name} has {point.figure.value:.3g} at L0 {point.l0.value:.3g}" for point in ends)
    return f"{'; '.join(values)}." if ends else ""


def _table_row(point: Point) -> tuple[Value, ...]:
    numbers = (point.l0.value, point.l0.low, point.l0.high, point.figure.value, point.figure.low, point.figure.high)
    over = point.figure.over
    return point.label, point.variant.penalty, *map(rounded, numbers), over, point.why
