"""What of a run leaves this machine: the files that its seal covers, its log of training and its own evaluations.

Checkpoints, `log/`, notes and whatever else lies in the folder stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from saepipe.data.config.base import flatten
from saepipe.data.config.yaml_file import read_yaml
from saepipe.data.folders import artifact
from saepipe.evaluate.results.result_file import read
from saepipe.evaluate.results.run_results import check_result
from saepipe.train.rundir import folder
from saepipe.train.rundir.load import Run

READABLE = frozenset({".safetensors", ".json", ".jsonl", ".yaml", ".md"})
"""The kinds of file that a run on a hub consists of, besides its seal: none of them runs when it is read."""

_ABSOLUTE = re.compile(r"~?/[^/]+/|[A-Za-z]:[\\/]")


@dataclass(frozen=True)
class Contents:
    """The files of one run, by their paths in it."""

    files: tuple[str, ...]
    left_out: tuple[str, ...]
    """Results in eval/ that are not of this run as it is now."""
    local_paths: tuple[str, ...]
    """`config.yaml: cache: /home/...`: what the files tell of this machine. They are part of the run's fingerprint."""

    @classmethod
    def of(cls, run: Run) -> Contents:
        """Raises CorruptDataError if a result is none of ours."""
        sealed = [name for line in artifact.read_manifest(run.path) for name in line.get("files", {})]
        results = sorted(path for path in (run.path / "eval").glob("*.json") if path.is_file())
        stale = [path for path in results if check_result(read(path), run, path.name)]
        beside = [folder.METRICS] if (run.path / folder.METRICS).is_file() else []
        files = (
            *(artifact.COMMITTED, artifact.MANIFEST, *sealed, *beside),
            *(_name(run, path) for path in results if path not in stale),
        )
        told = (f"{name}: {where}" for name in files for where in local_paths(run.path / name))
        return cls(files, tuple(_name(run, path) for path in stale), tuple(told))


def readable(name: str) -> bool:
    """Whether a file of that name may be part of a run on a hub."""
    path = Path(name)
    return path.suffix in READABLE or path.name == artifact.COMMITTED


def local_paths(path: Path) -> Iterator[str]:
    """`key: value` of each leaf of a text file that is an absolute path, or has the home directory in it."""
    if path.suffix == ".yaml":
        values = [read_yaml(path)[0]]
    elif path.suffix in (".json", ".jsonl"):
        text = path.read_text()
        values = [json.loads(line) for line in (text.splitlines() if path.suffix == ".jsonl" else [text])]
    else:
        return
    leaves = dict.fromkeys(
        (key, value) for plain in values for key, value in flatten(plain) if isinstance(value, str) and is_local(value)
    )
    yield from (f"{key}: {value}" for key, value in leaves)


def is_local(text: str) -> bool:
    """Whether it tells where something lies on this machine."""
    home = str(Path.home())
    return bool(_ABSOLUTE.match(text)) or (home != "/" and f"{home}/" in f"{text}/")


def _name(run: Run, path: Path) -> str:
    return path.relative_to(run.path).as_posix()
