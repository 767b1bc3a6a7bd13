"""Sections of the page that have charts, in reading order."""

from __future__ import annotations

from saepipe.evaluate.report.chart import Section
from saepipe.evaluate.report.charts import absorption, harvest, latents, pareto, probing, training
from saepipe.evaluate.report.story import Story


def sections(story: Story) -> list[Section]:
    """Returns the sections, from the results to the data behind them.

    Raises:
        MachineError: if the extra `report` is not installed.
    """
    return [module.section(story) for module in (pareto, training, latents, absorption, probing, harvest)]
