"""Hedging of SAEs by their number of latents, measured on runs that were widened."""

from __future__ import annotations

from saepipe.evaluate.compare.variant_means import Variant
from saepipe.evaluate.report.chart import Chart
from saepipe.evaluate.report.charts.dots import Dot, dots
from saepipe.evaluate.report.story import Story

_KEY = "hedging_degree"
_TEXT = (
    "How far the latents of an SAE moved towards the latents that it was widened by, beyond chance: what they had "
    "mixed in for want of latents, and 0 if it had enough. Features in superposition blur it. From three seeds on, "
    "bars are over seeds."
)


def hedging_chart(story: Story) -> Chart | None:
    """Returns the chart, one row per size before widening, ascending; None if no run was widened."""
    sizes = [(size, variant) for variant in story.variants if (size := _size(story, variant))]
    points = [
        Dot(f"{size:,} latents", variant.name, variant.mean(_KEY))
        for size, variant in sorted(sizes, key=lambda pair: pair[0])
    ]
    if not any(point.figure.value is not None for point in points):
        return None
    return dots("latents-hedging", "Hedging", _TEXT, story, points, ("before widening", "hedging degree"))


def _size(story: Story, variant: Variant) -> int | None:
    """Returns the number of latents that a variant was widened from; None if it was not."""
    geometry = story.results[variant.rows[0].label].get("geometry", {})
    size: int | None = geometry.get("saepipe", {}).get("widening", {}).get("latents_before")
    return size
