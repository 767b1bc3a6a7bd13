"""Sections of the page that have charts, in reading order."""

from __future__ import annotations

from saepipe.evaluate.report.chart import Section
from saepipe.evaluate.report.charts import absorption, harvest, latent_roles, latents, pareto, probing, training
from saepipe.evaluate.report.story import Story


def sections(story: Story) -> list[Section]:
    """Returns the sections, from the results to the data behind them.

    Raises:
        MachineError: if the extra `report` is not installed.
    """
    modules = (pareto, latents, absorption, probing, latent_roles, training, harvest)
    return [module.section(story) for module in modules]
