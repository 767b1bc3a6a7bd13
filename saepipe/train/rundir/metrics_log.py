"""What a run tells while it trains: a line of `metrics.jsonl` every `log_every` steps."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from saepipe.train.step.measure import Measurement
from saepipe.train.step.state import Recipe, TrainState


class MetricsLog:
    """`metrics.jsonl` of one run, appended to. Times in it are of the process, all of its variants together."""

    def __init__(self, path: Path, step: int) -> None:
        """Keeps the lines up to `step` (a checkpoint's) of what may be there; a torn last line is dropped."""
        written = path.read_text().split("\n")[:-1] if path.exists() else []
        self.lines: list[dict[str, Any]] = [line for line in map(json.loads, written) if line["step"] <= step]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in self.lines))
        self._path = path
        self._since = (time.monotonic(), step)

    def write(self, recipe: Recipe, state: TrainState, names: list[str], measured: Measurement) -> dict[str, Any]:
        """Appends a line about the step just done, and the terms' means since the last line; resets their sums."""
        now, (then, step) = time.monotonic(), self._since
        batch = recipe.config.batch_size
        means = dict(zip(names, (state.sums / state.num_summed).tolist(), strict=True))
        whole = sum(measured.gradient_norms.values())
        line = {
            "step": state.step,
            "tokens": state.step * batch,
            "loss": sum(weighted for _, weighted in means.values()),
            "terms": {
                name: {
                    "value": value,
                    "weighted": weighted,
                    "gradient_norm": measured.gradient_norms[name],
                    "gradient_share": measured.gradient_norms[name] / whole if whole else 0.0,
                }
                for name, (value, weighted) in means.items()
            },
            "gradient_norm": measured.gradient_norm,
            "statistics": measured.statistics,
            "l0": measured.l0,
            "fvu": measured.fvu,
            "dead": measured.dead,
            "lr": measured.lr,
            "sparse": measured.sparse,
            "tokens_per_second": (state.step - step) * batch / max(now - then, 1e-9),
        }
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)
        state.sums.zero_()
        state.num_summed = 0
        self._since = (now, state.step)
        return line
