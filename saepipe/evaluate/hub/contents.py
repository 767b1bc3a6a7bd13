"""Files of a run that a push sends: those covered by its seal, its training log and its own evaluations.

Checkpoints, `log/`, notes and anything else in the folder are not sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from saepipe.data.config.base import flatten
from saepipe.data.config.yaml_file import read_yaml
from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact
from saepipe.evaluate.results.result_file import read
from saepipe.evaluate.results.run_results import check_result
from saepipe.train.rundir import run_files
from saepipe.train.rundir.finished_run import Run
from saepipe.train.rundir.sealed_log import damaged_log

READABLE = frozenset({".safetensors", ".json", ".jsonl", ".yaml", ".md"})
"""Kinds of file in a run on a hub, besides its seal. Reading them executes no code."""

_ABSOLUTE = re.compile(r"~?/[^/]+/|[A-Za-z]:[\\/]")


@dataclass(frozen=True)
class Contents:
    """Files of one run, by their paths in the run."""

    files: tuple[str, ...]
    left_out: tuple[str, ...]
    """Results in eval/ that are not of this run in its present state."""
    local_paths: tuple[str, ...]
    """Local paths in the files, such as `config.yaml: cache: /home/...`; part of the run's fingerprint."""

    @classmethod
    def of(cls, run: Run) -> Contents:
        """Lists the files; raises CorruptDataError if a result is not one of saepipe, or the log is damaged."""
        sealed = [name for line in artifact.read_manifest(run.path) for name in line.get("files", {})]
        results = sorted(path for path in (run.path / "eval").glob("*.json") if path.is_file())
        stale = [path for path in results if check_result(read(path), run, path.name)]
        for problem in damaged_log(run.path):
            raise CorruptDataError(problem, hint="train the run again; a damaged log is not pushed")
        beside = [name for name in (run_files.METRICS, run_files.METRICS_SEAL) if (run.path / name).is_file()]
        files = (
            *(artifact.COMMITTED, artifact.MANIFEST, *sealed, *beside),
            *(_name(run, path) for path in results if path not in stale),
        )
        paths = (f"{name}: {entry}" for name in files for entry in local_paths(run.path / name))
        return cls(files, tuple(_name(run, path) for path in stale), tuple(paths))


def readable(name: str) -> bool:
    """Returns whether a file with this name may be part of a run on a hub."""
    path = Path(name)
    return path.suffix in READABLE or path.name == artifact.COMMITTED


def local_paths(path: Path) -> Iterator[str]:
    """Yields `key: value` of each leaf of a text file that is an absolute path or contains the home directory."""
    if path.suffix == ".yaml":
        values = [read_yaml(path)[0]]
    elif path.suffix in (".json", ".jsonl"):
        text = path.read_text()
        values = [json.loads(line) for line in (text.splitlines() if path.suffix == ".jsonl" else [text])]
    else:
        return
    leaves = dict.fromkeys(
        (key, value) for tree in values for key, value in flatten(tree) if isinstance(value, str) and is_local(value)
    )
    yield from (f"{key}: {value}" for key, value in leaves)


def is_local(text: str) -> bool:
    """Returns whether the text reveals a path on this machine."""
    home = str(Path.home())
    return bool(_ABSOLUTE.match(text)) or (home != "/" and f"{home}/" in f"{text}/")


def _name(run: Run, path: Path) -> str:
    return path.relative_to(run.path).as_posix()
