"""The seal of a finished run's `metrics.jsonl`, which holds rates measured in time and so is outside its fingerprint.

`metrics.seal.json` has the log's digest and the id of the run that it belongs to. The manifest's first line
says that it exists (`metrics_seal`), so that a log and a seal that are both missing are missed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact
from saepipe.train.rundir.metrics_log import parse_lines
from saepipe.train.rundir.run_files import METRICS, METRICS_SEAL


def write_seal(folder: Path) -> None:
    """Writes the seal of the log in `folder`, whose manifest is final."""
    seal = {"run_id": _header(folder)["run_id"], **artifact.digest_file(folder / METRICS)}
    artifact.write_json(folder / METRICS_SEAL, seal)


def damaged_log(folder: Path) -> Iterator[str]:
    """Yields a sentence if the log of a finished run is not what was sealed; runs of earlier versions have no seal."""
    header = _header(folder)
    if not header.get("metrics_seal"):
        return
    path = folder / METRICS
    try:
        seal = json.loads((folder / METRICS_SEAL).read_text())
        run_id, expected = seal["run_id"], {key: seal[key] for key in ("bytes", "xxh3")}
    except (OSError, ValueError, KeyError, TypeError):
        yield f"{folder / METRICS_SEAL} is missing or damaged"
        return
    if run_id != header["run_id"]:
        yield f"{folder / METRICS_SEAL} belongs to another run"
    elif not path.is_file():
        yield f"{path} is missing"
    elif artifact.digest_file(path) != expected:
        yield f"{path} was changed after the run was finished"


def read_log(folder: Path) -> tuple[dict[str, Any], ...]:
    """Returns the lines of a finished run's log, none if it was imported.

    Raises:
        CorruptDataError: if the log is damaged or missing.
    """
    hint = f"train the run again, or copy {METRICS} and {METRICS_SEAL} again from where the run was made"
    for problem in damaged_log(folder):
        raise CorruptDataError(problem, hint=hint)
    path = folder / METRICS
    try:
        return tuple(parse_lines(path.read_bytes())) if path.is_file() else ()
    except ValueError as error:
        raise CorruptDataError(f"{path} is damaged: {error}", hint=hint) from None


def _header(folder: Path) -> Mapping[str, Any]:
    return next(iter(artifact.read_manifest(folder)), {})
