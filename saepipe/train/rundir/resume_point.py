"""Where a run goes on: at its latest checkpoint that is intact, and for which the log is, or at step 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from saepipe.train.rundir.checkpoint import DamagedCheckpoint, Index, checkpoints, read_index, remove_checkpoint
from saepipe.train.rundir.folder import earlier_header
from saepipe.train.rundir.metrics_log import parse_lines
from saepipe.train.rundir.run_files import CHECKPOINTS, METRICS


@dataclass(frozen=True)
class ResumePoint:
    """What an earlier call left of a run."""

    checkpoint: Path | None = None  # None: the run begins at step 0
    log: bytes = b""  # beginning of metrics.jsonl, up to the checkpoint
    header: Mapping[str, Any] = field(default_factory=dict)  # what the manifest said of the steps up to it
    said: tuple[str, ...] = ()  # what could not be used, and why


def resume_point(folder: Path, run_id: str) -> ResumePoint:
    """Finds where the run in `folder` goes on, and removes later checkpoints, which cannot be used.

    Raises:
        OSError: if a file cannot be read.
    """
    path = folder / METRICS
    log = path.read_bytes() if path.is_file() else b""
    said: list[str] = []
    for checkpoint in reversed(checkpoints(folder / CHECKPOINTS)):
        try:
            index = read_index(checkpoint, run_id)
            kept = _log_up_to(index, log)
        except DamagedCheckpoint as reason:
            said.append(f"checkpoint {checkpoint.name} cannot be used: {reason}")
            remove_checkpoint(checkpoint)
            continue
        if "log" not in index:
            said.append(f"checkpoint {checkpoint.name} is of an earlier version, which kept no digest of {METRICS}")
        header = index["header"] if "log" in index else earlier_header(folder)
        return ResumePoint(checkpoint, kept, header, tuple(_with_step(said, int(checkpoint.name))))
    if log and not said:
        said.append("an earlier call left no checkpoint")
    return ResumePoint(said=tuple(_with_step(said, 0)))


def remove_partial_files(folder: Path) -> None:
    """Removes what a killed call was writing when it ended."""
    for pattern in ("*.partial", "sae/*.partial", f"{CHECKPOINTS}/*/*.partial"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _with_step(said: list[str], step: int) -> list[str]:
    return [*said[:-1], f"{said[-1]}; the run goes on from step {step:,}"] if said else []


def _log_up_to(index: Index, log: bytes) -> bytes:
    """Returns the lines of the log up to a checkpoint; raises DamagedCheckpoint if they are not what they were."""
    sealed = index.get("log")
    if sealed is not None:
        kept = log[: sealed["bytes"]]
        if len(kept) != sealed["bytes"] or xxhash.xxh3_64_hexdigest(kept) != sealed["xxh3"]:
            raise DamagedCheckpoint(f"the lines of {METRICS} up to it are missing or were changed")
        return kept
    complete = log.splitlines(keepends=True)
    try:
        lines = parse_lines(b"".join(line for line in complete if line.endswith(b"\n")))
    except ValueError as error:
        raise DamagedCheckpoint(f"{METRICS} is damaged: {error}") from None
    steps = [line["step"] for line in lines if line["step"] <= index["step"]]
    if steps[:1] != [1] or steps != sorted(set(steps)):
        raise DamagedCheckpoint(f"lines of {METRICS} are missing")
    return b"".join(complete[: len(steps)])
