"""Absorption by letter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from saepipe.evaluate.compare.variant_means import Mean
from saepipe.evaluate.report.chart import Chart, Section
from saepipe.evaluate.report.charts.dots import Dot, dots
from saepipe.evaluate.report.story import Story
from saepipe.evaluate.stats.intervals import wilson

Letter = Mapping[str, Any]
"""Results of one letter, under SAEBench's keys and ours."""

_TEXT = (
    "Each row is a first letter. Only letters on which absorption can be measured are shown: the model knows the "
    "letter and the SAE has latents for it. With several seeds, a dot is the mean over those that can be measured."
)
_KINDS = {
    "full_absorption_rate": (
        "absorption-full",
        "Full absorption by letter",
        "Share of a letter's words on which its latents are inactive and another latent replaces them, by variant. "
        "Bars are Wilson 95 % intervals over words; seeds share the words, so more seeds do not make them shorter.",
        "full absorption",
    ),
    "mean_absorption_fraction": (
        "absorption-fraction",
        "Absorption fraction by letter",
        "Share of a letter that other latents carry, mean over its words, by variant. Results contain the mean only, "
        "so bars are the widest that a mean of that many values in [0, 1] can need (Wilson 95 %, as if each value "
        "were 0 or 1).",
        "absorption fraction",
    ),
}


def section(story: Story) -> Section:
    """Returns the section, with charts of the runs whose absorption was measured."""
    letters = {run: _letters(result["absorption"]) for run, result in story.results.items() if "absorption" in result}
    charts, absent = [], list(_absent(story, letters))
    for chart in _charts(story, letters):
        if any(value for _, _, value, *_ in chart.rows):
            charts.append(chart)
        else:
            absent.append(f"{chart.title}: 0 on every letter in every run.")
    return Section("absorption", "Absorption", _TEXT if charts else "", tuple(charts), tuple(absent))


def _letters(result: Mapping[str, Any]) -> dict[str, Letter]:
    """Returns the results by letter, with SAEBench's keys and ours."""
    ours = {letter["first_letter"]: letter for letter in result["saepipe"]["letters"]}
    return {entry["first_letter"]: {**ours[entry["first_letter"]], **entry} for entry in result["eval_result_details"]}


def _charts(story: Story, letters: Mapping[str, Mapping[str, Letter]]) -> Iterator[Chart]:
    for key, (id_, title, text, name) in _KINDS.items():
        points = list(_dots(story, letters, key))
        if any(dot.figure.value is not None for dot in points):
            yield dots(id_, title, text, story, points, ("letter", name))


def _dots(story: Story, letters: Mapping[str, Mapping[str, Letter]], key: str) -> Iterator[Dot]:
    for name in sorted({letter for by_letter in letters.values() for letter in by_letter}):
        for variant in story.variants:
            seeds = [letters[row.label][name] for row in variant.rows if name in letters.get(row.label, {})]
            if seeds:
                yield Dot(name, variant.name, _mean(seeds, key))


def _mean(seeds: Sequence[Letter], key: str) -> Mean:
    """Averages a figure of one letter over the seeds on which it can be measured; all have the same words."""
    measured = [letter for letter in seeds if letter[key] is not None]
    if not measured:
        return Mean(None, why="; ".join(dict.fromkeys(str(letter["not_measurable"]) for letter in seeds)))
    share = fmean(letter[key] for letter in measured)
    interval = wilson(share, min(letter["num_probe_true_positives"] for letter in measured))
    return Mean(share, interval.low, interval.high, over="evaluation")


def _absent(story: Story, letters: Mapping[str, Mapping[str, Letter]]) -> Iterator[str]:
    missing = [row.label for row in story.rows if row.label not in letters]
    if missing:
        yield f"Absorption was not measured for {', '.join(missing)}."
    flags = {label: [bool(letter["not_measurable"]) for letter in result.values()] for label, result in letters.items()}
    counts = ", ".join(f"{label} {sum(flag)} of {len(flag)}" for label, flag in flags.items() if any(flag))
    if counts:
        yield f"Letters on which absorption cannot be measured: {counts}; the tables give the reasons."
