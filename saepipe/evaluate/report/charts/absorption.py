"""Absorption letter by letter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from saepipe.evaluate.report.chart import Chart, Section
from saepipe.evaluate.report.charts.dots import Dot, dots
from saepipe.evaluate.report.story import Story
from saepipe.evaluate.report.variant_means import Mean
from saepipe.evaluate.stats.intervals import wilson

Letter = Mapping[str, Any]
"""What a result says of one letter, SAEBench's keys and ours."""

_TEXT = (
    "A row is a first letter. Only letters are drawn at which absorption can be measured at all: the model tells the "
    "letter, and the SAE has latents for it. With several seeds a dot is the mean of those that can be measured."
)
_KINDS = {
    "full_absorption_rate": (
        "absorption-full",
        "Full absorption by letter",
        "The share of a letter's words at which its latents are silent and another latent stands in, by variant. "
        "Bars are Wilson's 95 % intervals over words; seeds share the words, so more seeds do not make them shorter.",
        "full absorption",
    ),
    "mean_absorption_fraction": (
        "absorption-fraction",
        "Absorption fraction by letter",
        "How much of a letter other latents carry, mean over its words, by variant. Results hold the mean alone, so "
        "bars are as wide as a mean of so many values between 0 and 1 can ask for (Wilson's 95 %, as if all were 0 "
        "or 1).",
        "absorption fraction",
    ),
}


def section(story: Story) -> Section:
    """Of the runs whose absorption was measured."""
    letters = {label: _letters(found["absorption"]) for label, found in story.results.items() if "absorption" in found}
    charts = tuple(_charts(story, letters)) if letters else ()
    return Section("absorption", "Absorption", _TEXT if charts else "", charts, tuple(_absent(story, letters)))


def _letters(result: Mapping[str, Any]) -> dict[str, Letter]:
    """By letter, what SAEBench and what we say of it."""
    ours = {letter["first_letter"]: letter for letter in result["saepipe"]["letters"]}
    return {entry["first_letter"]: {**ours[entry["first_letter"]], **entry} for entry in result["eval_result_details"]}


def _charts(story: Story, letters: Mapping[str, Mapping[str, Letter]]) -> Iterator[Chart]:
    for key, (id_, title, text, name) in _KINDS.items():
        found = list(_dots(story, letters, key))
        if any(dot.figure.value is not None for dot in found):
            yield dots(id_, title, text, story, found, ("letter", name))


def _dots(story: Story, letters: Mapping[str, Mapping[str, Letter]], key: str) -> Iterator[Dot]:
    for name in sorted({letter for found in letters.values() for letter in found}):
        for variant in story.variants:
            seen = [letters[row.label][name] for row in variant.rows if name in letters.get(row.label, {})]
            if seen:
                yield Dot(name, variant.name, _figure(seen, key))


def _figure(seen: Sequence[Letter], key: str) -> Mean:
    """Of one letter, over the seeds at which it can be measured; they were all asked the same words."""
    known = [letter for letter in seen if letter[key] is not None]
    if not known:
        return Mean(None, why="; ".join(dict.fromkeys(str(letter["not_measurable"]) for letter in seen)))
    share = fmean(letter[key] for letter in known)
    found = wilson(share, min(letter["num_probe_true_positives"] for letter in known))
    return Mean(share, found.low, found.high, over="evaluation")


def _absent(story: Story, letters: Mapping[str, Mapping[str, Letter]]) -> Iterator[str]:
    missing = [row.label for row in story.rows if row.label not in letters]
    if missing:
        yield f"Absorption was not measured of {', '.join(missing)}."
    silent = {label: [bool(letter["not_measurable"]) for letter in found.values()] for label, found in letters.items()}
    told = ", ".join(f"{label} {sum(those)} of {len(those)}" for label, those in silent.items() if any(those))
    if told:
        yield f"Letters at which absorption cannot be measured: {told}; the tables say why."
