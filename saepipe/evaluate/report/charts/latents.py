"""Overlaid histograms of the runs: density of latents, and cosines of their decoder rows; and hedging."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saepipe.data.folders.finding_groups import Range
from saepipe.evaluate.compare.variant_means import Variant
from saepipe.evaluate.report.chart import Chart, Section
from saepipe.evaluate.report.charts.hedging import hedging_chart
from saepipe.evaluate.report.charts.lines import Axes, Line, lines
from saepipe.evaluate.report.charts.small_multiples import small_multiples
from saepipe.evaluate.report.evaluations import HISTOGRAMS
from saepipe.evaluate.report.story import Story

_TEXT = "Each line is a run, coloured by variant. Heights are shares, so SAEs of different sizes are comparable."
_ABOUT_PANELS = " All panels have one scale; the first variant is in grey behind the others."
_SOURCES = ("geometry", "core")
"""Evaluations with histograms, in order of preference."""


@dataclass(frozen=True)
class _Kind:
    """Chart of one histogram."""

    id: str
    title: str
    text: str
    x: str
    y: str
    may_be_log: bool = False


_KINDS = {
    "log10_density": _Kind(
        "latents-density",
        "Density of latents",
        "Share of latents by log10 of their density, the share of held-out tokens on which they are active.",
        "log10 density",
        "share of latents",
    ),
    "max_decoder_cosine": _Kind(
        "latents-nearest-cosine",
        "Cosine with the nearest decoder row",
        "Share of latents by the cosine of their decoder row with the most similar other row.",
        "cosine",
        "share of latents",
    ),
    "decoder_cosine": _Kind(
        "latents-decoder-cosine",
        "Cosine of all pairs of decoder rows",
        "Share of all pairs of latents by the cosine of their decoder rows; 0 means that there is no such pair.",
        "cosine",
        "share of pairs",
        may_be_log=True,
    ),
}


def section(story: Story) -> Section:
    """Returns the section, with the histograms in the runs' evaluations."""
    charts: list[Chart] = []
    absent: dict[str, list[str]] = {}
    for name, kind in _KINDS.items():
        histograms = {row.label: found for row in story.rows if (found := _histogram(story, row.label, name))}
        if histograms:
            charts.append(_chart(story, name, kind, histograms))
        missing = [row.label for row in story.rows if row.label not in histograms]
        if missing:
            absent.setdefault(", ".join(missing), []).append(kind.title.lower())
    if hedging := hedging_chart(story):
        charts.append(hedging)
    reasons = (f"Not measured for {runs}: {'; '.join(kinds)} (evaluate geometry)." for runs, kinds in absent.items())
    return Section("latents", "Latents", _TEXT if charts else "", tuple(charts), tuple(reasons))


def _histogram(story: Story, label: str, name: str) -> Mapping[str, Any] | None:
    """Returns edges and counts; None if no evaluation has any."""
    for source in _SOURCES:
        histogram = story.results[label].get(source, {}).get("saepipe", {}).get(HISTOGRAMS, {}).get(name)
        if histogram and sum(histogram["counts"]):
            return histogram
    return None


def _chart(story: Story, name: str, kind: _Kind, histograms: Mapping[str, Mapping[str, Any]]) -> Chart:
    text = kind.text
    if name == "log10_density":
        dead_shares = ", ".join(filter(None, map(_dead_share, story.variants)))
        text += f" Latents that are never active are not included: {dead_shares}." if dead_shares else ""
        text += _ABOUT_PANELS if len(story.variants) > 1 else ""
    first, last = _visible_bins(histograms)
    series = [_line(label, histogram, first, last) for label, histogram in histograms.items()]
    axes = Axes(kind.x, kind.y, steps=True, may_be_log=kind.may_be_log)
    draw = small_multiples if name == "log10_density" and len(story.variants) > 1 else lines
    return draw(kind.id, kind.title, text, story, series, axes)


def _dead_share(variant: Variant) -> str:
    """Returns `l1 24% to 27%`: the range over seeds; an empty string if it was not measured."""
    values = [value for row in variant.rows if (value := row.value("frac_dead")) is not None]
    return f"{variant.name} {Range(min(values), max(values)):.1%}" if values else ""


def _visible_bins(histograms: Mapping[str, Mapping[str, Any]]) -> tuple[int, int]:
    """Returns the first and last bin that any run fills, and one more on each side. All have the same edges."""
    counts = [sum(bins) for bins in zip(*(histogram["counts"] for histogram in histograms.values()), strict=True)]
    filled = [index for index, count in enumerate(counts) if count]
    return max(0, filled[0] - 1), min(len(counts) - 1, filled[-1] + 1)


def _line(label: str, histogram: Mapping[str, Any], first: int, last: int) -> Line:
    """Returns one step per bin; the last edge closes the last bin."""
    total = sum(histogram["counts"])
    shares = [count / total for count in histogram["counts"][first : last + 1]]
    return Line(label, histogram["edges"][first : last + 2], [*shares, shares[-1]])
