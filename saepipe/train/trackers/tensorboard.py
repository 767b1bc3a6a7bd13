"""TensorBoard: event files in RUN/log/tensorboard; `tensorboard --logdir OUT` shows every run of a study."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from saepipe.data.folders.health import Finding
from saepipe.train.trackers.base import TrackedRun


class TensorBoard:
    """Writes numbers as scalars, and the config and the findings as texts."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.log / "tensorboard"
        resumed = folder.exists()
        # A resumed run writes the lines after its checkpoint a second time: hide the first ones.
        self._writer = SummaryWriter(folder, purge_step=run.step + 1 if resumed else None)
        self.last_step = run.step if resumed else 0
        if not resumed:
            text = yaml.safe_dump(dict(run.config), sort_keys=False)
            self._writer.add_text("config", f"```\n{text}```", 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()  # a killed run has the same lines here as in metrics.jsonl

    def log_finding(self, step: int, finding: Finding) -> None:
        self._writer.add_text(f"health/{finding.rule}", str(finding), step)
        self._writer.flush()

    def finish(self, ok: bool) -> None:
        self._writer.close()


start = TensorBoard
