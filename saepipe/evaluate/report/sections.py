"""Sections of the page that have charts, in reading order."""

from __future__ import annotations

from saepipe.evaluate.report.browser_links import BrowserLinks
from saepipe.evaluate.report.chart import Section
from saepipe.evaluate.report.charts import (
    absorption,
    by_hook,
    harvest,
    latent_roles,
    latents,
    pareto,
    probing,
    training,
)
from saepipe.evaluate.report.story import Story


def sections(story: Story, browser: BrowserLinks | None = None) -> list[Section]:
    """Returns the sections, from the results to the data behind them.

    Args:
        story: data of the runs.
        browser: feature browser that the points of Pareto plots lead to, instead of the runs' blocks of the page.

    Raises:
        MachineError: if the extra `report` is not installed.
    """
    modules = (latents, absorption, probing, latent_roles, training, harvest)
    of_crosscoders = by_hook.section(story)
    first = [pareto.section(story, browser), *([of_crosscoders] if of_crosscoders else [])]
    return [*first, *(module.section(story) for module in modules)]
