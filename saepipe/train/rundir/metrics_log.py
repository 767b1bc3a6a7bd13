"""Log of a run in training: a line of `metrics.jsonl` every `log_every` steps."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from saepipe.train.step.measure import Measurement
from saepipe.train.step.state import Recipe, TrainState


class MetricsLog:
    """The `metrics.jsonl` of one run. Its `tokens_per_second` includes the time of other runs in the process."""

    def __init__(self, path: Path, step: int) -> None:
        """Keeps the existing lines up to a checkpoint's `step` and drops later ones and a torn last line."""
        written = path.read_text().split("\n")[:-1] if path.exists() else []
        self.lines: list[dict[str, Any]] = [line for line in map(json.loads, written) if line["step"] <= step]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in self.lines))
        self._path = path
        self._last = (time.monotonic(), step)

    def write(self, recipe: Recipe, state: TrainState, names: list[str], measurement: Measurement) -> dict[str, Any]:
        """Appends a line on the step just done, with the terms' means since the last line; resets their sums."""
        now, (last_time, last_step) = time.monotonic(), self._last
        batch = recipe.config.batch_size
        means = dict(zip(names, (state.sums / state.num_summed).tolist(), strict=True))
        sum_of_norms = sum(measurement.gradient_norms.values())
        line = {
            "step": state.step,
            "tokens": state.step * batch,
            "loss": sum(weighted for _, weighted in means.values()),
            "terms": {
                name: {
                    "value": value,
                    "weighted": weighted,
                    "gradient_norm": measurement.gradient_norms[name],
                    "gradient_share": measurement.gradient_norms[name] / sum_of_norms if sum_of_norms else 0.0,
                }
                for name, (value, weighted) in means.items()
            },
            "gradient_norm": measurement.gradient_norm,
            "statistics": measurement.statistics,
            "l0": measurement.l0,
            "fvu": measurement.fvu,
            "dead": measurement.dead,
            "lr": measurement.lr,
            "sparse": measurement.sparse,
            "tokens_per_second": (state.step - last_step) * batch / max(now - last_time, 1e-9),
        }
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)
        state.sums.zero_()
        state.num_summed = 0
        self._last = (now, state.step)
        return line
