"""Weights & Biases, set up by its own variables: WANDB_MODE (offline), WANDB_PROJECT, WANDB_ENTITY, WANDB_DIR."""

from __future__ import annotations

import os
from collections.abc import Mapping

from saepipe.data.errors import MachineError
from saepipe.data.folders.health import Finding
from saepipe.train.trackers.base import PROJECT, TrackedRun, read_id, write_id

FINISH_TIMEOUT = 30.0
"""Seconds that the end of the process waits for unsent data, which stays on disk for `wandb sync`."""


class WandB:
    """Logs numbers as history and findings in the summary; files go to RUN/log/wandb."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise MachineError("there is no API key", hint="run `wandb login` once, or set WANDB_MODE=offline")
        tracker_id = read_id(run, "wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            group=run.group,
            config=dict(run.config),
            id=tracker_id,
            resume="allow" if tracker_id else None,
            reinit="create_new",  # other runs of this process continue beside it
            dir=os.environ.get("WANDB_DIR", run.log),
            settings=wandb.Settings(console="off", finish_timeout=FINISH_TIMEOUT),
        )
        write_id(run, "wandb", self._run.id)
        # Offline, W&B does not know earlier files, so each file holds the whole run and the last one is enough.
        self.last_step = self._run.starting_step - 1
        self._findings: dict[str, list[str]] = {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def log_finding(self, step: int, finding: Finding) -> None:
        findings = self._findings.setdefault(finding.rule, [])
        findings.append(str(finding))
        self._run.summary[f"health/{finding.rule}"] = "\n".join(findings)

    def finish(self, ok: bool) -> None:
        self._run.finish(exit_code=0 if ok else 1)


start = WandB
