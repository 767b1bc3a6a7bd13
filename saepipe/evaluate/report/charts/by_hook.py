"""Crosscoders by hook: what is reconstructed there, and how latents share out their decoder norms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from saepipe.evaluate.compare.variant_means import Mean
from saepipe.evaluate.report.chart import Chart, Section
from saepipe.evaluate.report.charts.dots import Dot, dots
from saepipe.evaluate.report.story import Story

Blocks = Mapping[str, Mapping[str, Any]]
"""The saepipe blocks of core results, by run."""

_TEXT = (
    "A crosscoder has one set of latents for several hooks. Each dot is the mean over a variant's seeds; a bar is the "
    "mean of their intervals over documents."
)
_SHARE = "Mean over latents of a hook's share in the sum of the decoder norms, on the scale of training."
_EXCLUSIVE = "Latents that write at one hook alone: at each other, their norm is below a tenth of the largest."


def section(story: Story) -> Section | None:
    """Returns the section; None if no crosscoder was measured."""
    measured = {label: results["core"]["saepipe"] for label, results in story.results.items() if "core" in results}
    blocks = {label: block for label, block in measured.items() if "decoder_norms" in block}
    if not blocks:
        return None
    charts = [*_figures(story, blocks), _norms(story, blocks, "mean_share", "share of the norm", _SHARE)]
    absent = []
    if any(any(block["decoder_norms"]["exclusive"].values()) for block in blocks.values()):
        charts.append(_norms(story, blocks, "exclusive", "exclusive latents", _EXCLUSIVE))
    else:
        absent.append("No latent writes at one hook alone.")
    return Section("crosscoders", "Crosscoders by hook", _TEXT, tuple(charts), tuple(absent))


def _figures(story: Story, blocks: Blocks) -> Iterator[Chart]:
    for key, name in (("explained_variance", "explained variance"), ("delta_ce", "delta CE (nats)")):
        title = f"{name[0].upper()}{name[1:]} by hook"
        text = "At each hook, with the activations of the other hooks as they are."
        points = [
            Dot(hook, variant, _mean([block["hooks"][hook][key] for block in own]))
            for variant, hook, own in _by_variant(story, blocks)
        ]
        yield dots(f"crosscoder-{key.replace('_', '-')}", title, text, story, points, ("hook", name))


def _norms(story: Story, blocks: Blocks, key: str, name: str, text: str) -> Chart:
    points = [
        Dot(hook, variant, Mean(fmean(block["decoder_norms"][key][hook] for block in own)))
        for variant, hook, own in _by_variant(story, blocks)
    ]
    title = f"{name[0].upper()}{name[1:]} by hook"
    return dots(f"crosscoder-{key.replace('_', '-')}", title, text, story, points, ("hook", name))


def _by_variant(story: Story, blocks: Blocks) -> Iterator[tuple[str, str, Sequence[Mapping[str, Any]]]]:
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
