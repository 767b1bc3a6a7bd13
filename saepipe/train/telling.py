"""Tells the user while training what the health rules found: once per variant, grouped over its seeds."""

from __future__ import annotations

from collections.abc import Sequence

from saepipe.data.folders.finding_groups import grouped, kind, variant_of
from saepipe.data.terminal.progress import Progress
from saepipe.train.live_run import LiveRun
from saepipe.train.rundir.folder import label


class Telling:
    """Findings of runs that train together, and which of them the user has been told."""

    def __init__(self, runs: Sequence[LiveRun], progress: Progress) -> None:
        self._runs, self._progress = {label(run.planned.folder): run for run in runs}, progress
        self._told: set[tuple[str, str]] = set()

    def tell(self) -> None:
        """Prints the findings reported since the last call that no run of their variant had before."""
        if not any(run.news for run in self._runs.values()):
            return
        news = {
            name: [finding for finding in run.news if (variant_of(name), kind(finding)) not in self._told]
            for name, run in self._runs.items()
        }
        for group in grouped(news):
            self._progress.say(str(group))
        self._told |= {(variant_of(name), kind(finding)) for name, findings in news.items() for finding in findings}
        for run in self._runs.values():
            run.news.clear()
