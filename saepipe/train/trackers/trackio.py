"""Trackio. Its own environment decides: TRACKIO_DIR, TRACKIO_PROJECT, TRACKIO_SPACE_ID, TRACKIO_SERVER_URL."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from saepipe.data.folders.health import RULES, Finding
from saepipe.train.trackers.base import PROJECT, TrackedRun, recalled, remember


class Trackio:
    """Numbers as metrics, findings as alerts."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio
        import trackio.run
        import trackio.utils

        begin: Any = trackio.init

        for module in (trackio, trackio.run, trackio.utils):
            vars(module)["print"] = _talk  # stdout is data
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
        its_id = recalled(run, "trackio")
        self._run = begin(**settings, resume="allow" if its_id else "never")
        if its_id and self._run.id != its_id:  # it resumes by name, and another run of this name was begun since
            self._run.finish()
            self._run = begin(**settings, resume="never")
        remember(run, "trackio", self._run.id)
        self.last_step = self._run._next_step - 1

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def tell(self, step: int, finding: Finding) -> None:
        title = f"{finding.rule}: {RULES[finding.rule]}"
        self._run.alert(title, finding.message, level=self._levels[finding.severity], step=step)

    def finish(self, ok: bool) -> None:
        self._run.finish()


def _talk(*values: object, **how: Any) -> None:
    print(*values, **{"file": sys.stderr, **how})


start = Trackio
