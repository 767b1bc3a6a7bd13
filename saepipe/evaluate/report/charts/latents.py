"""How often latents fire and how alike their decoder rows are: histograms of the runs, laid over each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saepipe.evaluate.report.chart import Chart, Section
from saepipe.evaluate.report.charts.lines import Axes, Line, lines
from saepipe.evaluate.report.evaluations import HISTOGRAMS
from saepipe.evaluate.report.story import Story

_TEXT = "A line is a run, coloured by its variant. Heights are shares, so that SAEs of different sizes compare."
_SOURCES = ("geometry", "core")
"""Evaluations that have histograms, the first that has one first."""


@dataclass(frozen=True)
class _Kind:
    """One histogram, under its name in the results."""

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
        "The share of latents by log10 of their density, which is the share of held-out tokens on which they fire.",
        "log10 density",
        "share of latents",
    ),
    "max_decoder_cosine": _Kind(
        "latents-nearest-cosine",
        "Cosine with the nearest decoder row",
        "The share of latents by the cosine of their decoder row with the most similar other one.",
        "cosine",
        "share of latents",
    ),
    "decoder_cosine": _Kind(
        "latents-decoder-cosine",
        "Cosine of all pairs of decoder rows",
        "The share of all pairs of latents by the cosine of their decoder rows; where it is 0 there is no such pair.",
        "cosine",
        "share of pairs",
        may_be_log=True,
    ),
}


def section(story: Story) -> Section:
    """The histograms that the runs' evaluations hold."""
    charts: list[Chart] = []
    absent: dict[str, list[str]] = {}
    for name, kind in _KINDS.items():
        found = {row.label: _histogram(story, row.label, name) for row in story.rows}
        known = {label: histogram for label, histogram in found.items() if histogram}
        if known:
            charts.append(_chart(story, name, kind, known))
        missing = [label for label, histogram in found.items() if not histogram]
        if missing:
            absent.setdefault(", ".join(missing), []).append(kind.title.lower())
    told = (f"Not measured of {labels}: {'; '.join(kinds)} (evaluate geometry)." for labels, kinds in absent.items())
    return Section("latents", "Latents", _TEXT if charts else "", tuple(charts), tuple(told))


def _histogram(story: Story, label: str, name: str) -> Mapping[str, Any] | None:
    """Edges and counts, where an evaluation has any."""
    for source in _SOURCES:
        found = story.results[label].get(source, {}).get("saepipe", {}).get(HISTOGRAMS, {}).get(name)
        if found and sum(found["counts"]):
            return found
    return None


def _chart(story: Story, name: str, kind: _Kind, known: Mapping[str, Mapping[str, Any]]) -> Chart:
    text = kind.text
    if name == "log10_density":
        told = (f"{row.label} {silent:.2%}" for row in story.rows if (silent := row.value("frac_dead")) is not None)
        silent_ones = ", ".join(told)
        text += f" Latents that never fire are not in it: {silent_ones}." if silent_ones else ""
    first, last = _in_sight(known)
    found = [_line(label, histogram, first, last) for label, histogram in known.items()]
    return lines(kind.id, kind.title, text, story, found, Axes(kind.x, kind.y, steps=True, may_be_log=kind.may_be_log))


def _in_sight(known: Mapping[str, Mapping[str, Any]]) -> tuple[int, int]:
    """The first and the last bin that any run fills, and one more on each side. All have the same edges."""
    counts = [sum(bins) for bins in zip(*(histogram["counts"] for histogram in known.values()), strict=True)]
    filled = [place for place, count in enumerate(counts) if count]
    return max(0, filled[0] - 1), min(len(counts) - 1, filled[-1] + 1)


def _line(label: str, histogram: Mapping[str, Any], first: int, last: int) -> Line:
    """A step for each bin; the last edge closes the last one."""
    total = sum(histogram["counts"])
    shares = [count / total for count in histogram["counts"][first : last + 1]]
    return Line(label, histogram["edges"][first : last + 2], [*shares, shares[-1]])
