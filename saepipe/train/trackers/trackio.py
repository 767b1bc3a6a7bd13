"""Trackio, set up by its own variables: TRACKIO_DIR, TRACKIO_PROJECT, TRACKIO_SPACE_ID, TRACKIO_SERVER_URL."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from saepipe.data.folders.health import Finding
from saepipe.data.folders.health_rules import RULES
from saepipe.train.trackers.base import PROJECT, TrackedRun, read_id, write_id


class Trackio:
    """Logs numbers as metrics and findings as alerts."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio
        import trackio.run
        import trackio.utils

        begin: Any = trackio.init

        for module in (trackio, trackio.run, trackio.utils):
            vars(module)["print"] = _print_to_stderr  # stdout is for data
        self._levels = {"error": trackio.AlertLevel.ERROR, "warning": trackio.AlertLevel.WARN}
        settings: dict[str, Any] = {
            "project": os.environ.get("TRACKIO_PROJECT", PROJECT),
            "name": run.name,
            "group": run.group,
            "config": dict(run.config),
            "embed": False,
            "auto_log_gpu": False,
            "auto_log_cpu": False,
        }
        tracker_id = read_id(run, "trackio")
        self._run = begin(**settings, resume="allow" if tracker_id else "never")
        if tracker_id and self._run.id != tracker_id:  # Trackio resumes by name: this is a later run of the same name
            self._run.finish()
            self._run = begin(**settings, resume="never")
        write_id(run, "trackio", self._run.id)
        self.last_step = self._run._next_step - 1

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def log_finding(self, step: int, finding: Finding) -> None:
        title = f"{finding.rule}: {RULES[finding.rule].title}"
        self._run.alert(title, finding.message, level=self._levels[finding.severity], step=step)

    def finish(self, ok: bool) -> None:
        self._run.finish()


def _print_to_stderr(*values: object, **options: Any) -> None:
    print(*values, **{"file": sys.stderr, **options})


start = Trackio
