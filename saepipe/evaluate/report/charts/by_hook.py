"""Crosscoders by hook: what is reconstructed there, and how latents share out their decoder norms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from saepipe.evaluate.compare.variant_means import Mean
from saepipe.evaluate.report.chart import Chart, Section
from saepipe.evaluate.report.charts.dots import Dot, dots
from saepipe.evaluate.report.story import Story

ByHook = Mapping[str, float]

_TEXT = (
    "A crosscoder has one set of latents for several hooks. Each dot is the mean over a variant's seeds; a bar is the "
    "mean of their intervals over documents."
)


def section(story: Story) -> Section | None:
    """Returns the section; None if no crosscoder was measured."""
    blocks = {label: results["core"]["saepipe"] for label, results in story.results.items() if "core" in results}
    crosscoders = {label: block for label, block in blocks.items() if "decoder_norms" in block}
    return (
        Section("crosscoders", "Crosscoders by hook", _TEXT, tuple(_charts(story, crosscoders)))
        if crosscoders
        else None
    )


def _charts(story: Story, blocks: Mapping[str, Mapping[str, Any]]) -> Iterator[Chart]:
    for key, name in (("explained_variance", "explained variance"), ("delta_ce", "delta CE (nats)")):
        text = f"{name[0].upper()}{name[1:]} at each hook, with the activations of the other hooks as they are."
        points = [
            Dot(hook, variant, _mean([block["hooks"][hook][key] for block in own]))
            for variant, hook, own in _by_variant(story, blocks)
        ]
        yield dots(f"crosscoder-{key.replace('_', '-')}", f"{name} by hook", text, story, points, ("hook", name))
    for key, name, text in (
        ("mean_share", "share of the norm", "Mean over latents of a hook's share in the sum of the decoder norms."),
        (
            "exclusive",
            "exclusive latents",
            "Latents that write at one hook alone: at each other, their norm is below a tenth of the largest.",
        ),
    ):
        points = [
            Dot(hook, variant, Mean(fmean(block["decoder_norms"][key][hook] for block in own)))
            for variant, hook, own in _by_variant(story, blocks)
        ]
        yield dots(f"crosscoder-{key.replace('_', '-')}", f"{name} by hook", text, story, points, ("hook", name))


def _by_variant(
    story: Story, blocks: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, str, Sequence[Mapping[str, Any]]]]:
    """Yields each variant of crosscoders, each of its hooks, and the results of its seeds."""
    for variant in story.variants:
        own = [blocks[row.label] for row in variant.rows if row.label in blocks]
        for hook in own[0]["hooks"] if own else ():
            yield variant.name, hook, own


def _mean(seeds: Sequence[Sequence[float | None]]) -> Mean:
    """Averages value, low and high of one figure over seeds."""
    ends = [[seed[index] for seed in seeds] for index in range(3)]
    value, low, high = (None if None in each else fmean(map(float, each)) for each in ends)  # type: ignore[arg-type]
    return Mean(value, low, high, over="evaluation", why=None if value is not None else "not defined in every seed")
