"""Log of a run in training: a line of `metrics.jsonl` every `log_every` steps."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from saepipe.data.folders.artifact import write_file

if TYPE_CHECKING:
    from saepipe.train.step.measure import Measurement
    from saepipe.train.step.state import Recipe, TrainState


class MetricsLog:
    """The `metrics.jsonl` of one run. Its `tokens_per_second` includes the time of other runs in the process."""

    def __init__(self, path: Path | None, step: int, kept: bytes = b"") -> None:
        """Keeps `kept`, the beginning of the file up to a checkpoint's `step`, and drops what follows it.

        Without a path the lines are in memory only, as on all ranks of a run but the first.

        Raises:
            OutOfSpaceError: if the disk is full.
        """
        self.lines = parse_lines(kept)
        if path is not None and (not path.is_file() or path.stat().st_size != len(kept)):
            write_file(path, kept)
        self._path = path
        self._num_bytes, self._hash = len(kept), xxhash.xxh3_64(kept)
        self._last = (time.monotonic(), step)

    def write(self, recipe: Recipe, state: TrainState, measurement: Measurement) -> dict[str, Any]:
        """Appends a line on the step just done, with what the state gathered since the last line, which is reset."""
        now, (last_time, last_step) = time.monotonic(), self._last
        batch = recipe.config.batch_size
        means = dict(zip(recipe.config.term_names, (state.sums / state.num_summed).tolist(), strict=True))
        sample = state.sampled
        assert sample is not None, "a line's gradients are sampled at its own step at the latest"
        sum_of_norms = sum(sample.norms.values())
        line = {
            "step": state.step,
            "gradients_at": sample.step,
            "tokens": state.step * batch,
            "loss": sum(weighted for _, weighted in means.values()),
            "terms": {
                name: {
                    "value": value,
                    "weighted": weighted,
                    "gradient_norm": sample.norms[name],
                    "gradient_share": sample.norms[name] / sum_of_norms if sum_of_norms else 0.0,
                }
                for name, (value, weighted) in means.items()
            },
            "gradient_norm": sample.total_norm,
            "statistics": sample.statistics,
            "l0": measurement.l0,
            "fvu": measurement.fvu,
            "dead": measurement.dead,
            "lr": measurement.lr,
            "sparse": measurement.sparse,
            "tokens_per_second": (state.step - last_step) * batch / max(now - last_time, 1e-9),
        }
        written = (json.dumps(line) + "\n").encode()
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(written)
        self._num_bytes += len(written)
        self._hash.update(written)
        self.lines.append(line)
        state.sums.zero_()
        state.num_summed, state.sampled = 0, None
        self._last = (now, state.step)
        return line

    def digest(self) -> dict[str, Any]:
        """Returns {"bytes", "xxh3"} of the lines so far, once they are on disk."""
        assert self._path is not None, "this rank writes nothing"
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
        return {"bytes": self._num_bytes, "xxh3": self._hash.hexdigest()}


def parse_lines(data: bytes) -> list[dict[str, Any]]:
    """Returns the lines of a log; raises ValueError, with the line's number, if one is not of saepipe."""
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(data.splitlines(), 1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise ValueError(f"line {number} is not a line of a log: {text[:60]!r}")
        lines.append(line)
    return lines
