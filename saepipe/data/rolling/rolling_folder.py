"""The folder in which a harvest and a training meet that reads its pools as they are made.

    FOLDER/head/             a finished cache: the first pools, and the held-out part
    FOLDER/pools/<number>/   a finished cache of one pool, while the training needs it
    FOLDER/needed            number of the first pool that the training still needs
    FOLDER/manifest.jsonl    a line for each pool that was ever made: where it ends in the text, and the text's digest

The training says what it needs, and removes what it has read; the harvest makes the pools from there on, and waits
while there are as many as have room.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from saepipe.data.cache import rank_manifests
from saepipe.data.config.base import fingerprint
from saepipe.data.folders import artifact
from saepipe.data.folders.artifact import Line

_NEEDED = "needed"


@dataclass(frozen=True)
class RollingFolder:
    """The folder at `path`; the pools may wait `elsewhere`, in a folder that other streams use too."""

    path: Path
    elsewhere: Path | None = None

    @property
    def head(self) -> Path:
        return self.path / "head"

    @property
    def pools(self) -> Path:
        if self.elsewhere is None:
            return self.path / "pools"
        return self.elsewhere / f"saepipe-{fingerprint(str(self.path.resolve()))}"

    @property
    def log(self) -> Path:
        """The log of the harvest."""
        return self.path / artifact.LOG / "harvest.log"

    def lock(self, rank: int) -> Path:
        """The lock that each rank of the harvest holds."""
        return self.path / artifact.LOG / f"harvest-{rank}.lock"

    def pool(self, number: int) -> Path:
        return self.pools / f"{number:08d}"

    def needed(self) -> int:
        """Number of the first pool that is needed."""
        return int((self.path / _NEEDED).read_text())

    def need_from(self, number: int) -> None:
        """Says that no pool before this one is needed, and removes those."""
        artifact.write_file(self.path / _NEEDED, f"{number}\n".encode())
        self.remove(stored for stored in self.stored() if stored < number)

    def stored(self) -> list[int]:
        """Returns the numbers of the pools that are here, finished or not."""
        return sorted(int(path.name) for path in self.pools.iterdir()) if self.pools.is_dir() else []

    def is_made(self, number: int) -> bool:
        return artifact.is_committed(self.pool(number))

    def remove(self, numbers: Iterable[int]) -> None:
        """Removes pools; each loses its seal first, so that a half-removed one counts as unfinished."""
        for number in numbers:
            (self.pool(number) / artifact.COMMITTED).unlink(missing_ok=True)
            shutil.rmtree(self.pool(number))

    def lines(self) -> list[Line]:
        """Returns the line of each pool that was ever made, in order; all ranks have written some."""
        made = {line["pool"]: line for line in rank_manifests.read_lines(self.path)}
        return [made[number] for number in sorted(made)]

    def add_line(self, line: Line, rank: int) -> None:
        """Lists a pool that a rank has made."""
        rank_manifests.list_pool(self.path, rank, [line])

    def begin(self, first_lines: Iterable[Line]) -> None:
        """Lists the pools of the head, and takes over what ranks of an earlier harvest have listed."""
        made = {line["pool"]: line for line in (*first_lines, *self.lines())}
        artifact.rewrite_manifest(self.path, made.values())
        rank_manifests.remove(self.path)
