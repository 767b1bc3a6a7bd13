"""The parts of the page that have charts, in the order in which they are read."""

from __future__ import annotations

from saepipe.evaluate.report.chart import Section
from saepipe.evaluate.report.charts import absorption, harvest, latents, pareto, probing, training
from saepipe.evaluate.report.story import Story


def sections(story: Story) -> list[Section]:
    """From what was found to what it was found on.

    Raises:
        MachineError: if the extra `report` is not installed.
    """
    return [one.section(story) for one in (pareto, training, latents, absorption, probing, harvest)]
