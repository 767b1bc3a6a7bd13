"""The folder of a rolling cache: what is here, what is needed, and what was ever made."""

from __future__ import annotations

from pathlib import Path

from saepipe.data.folders.artifact import COMMITTED
from saepipe.data.rolling.rolling_folder import RollingFolder


def begun(folder: RollingFolder, number: int, *, made: bool = True) -> None:
    folder.pool(number).mkdir(parents=True)
    if made:
        (folder.pool(number) / COMMITTED).touch()


def test_what_is_not_needed_is_removed(tmp_path: Path) -> None:
    folder = RollingFolder(tmp_path)
    for number in (2, 10, 3):
        begun(folder, number, made=number != 10)
    assert folder.stored() == [2, 3, 10]
    assert [number for number in folder.stored() if folder.is_made(number)] == [2, 3]
    folder.need_from(3)
    assert (folder.needed(), folder.stored()) == (3, [3, 10])


def test_pools_may_wait_elsewhere(tmp_path: Path) -> None:
    first, second = (RollingFolder(tmp_path / name, tmp_path / "memory") for name in "ab")
    begun(first, 1)
    assert first.stored() == [1]
    assert second.stored() == []
    assert first.pools.parent == second.pools.parent == tmp_path / "memory"


def test_lines_of_all_ranks_are_listed_once(tmp_path: Path) -> None:
    folder = RollingFolder(tmp_path)
    line = {"kind": "pool", "split": "train", "num_rows": 8, "files": {}}
    folder.begin([{**line, "pool": 0}])
    for rank, number in ((0, 1), (1, 2), (0, 3), (0, 1)):
        folder.add_line({**line, "pool": number, "rank": rank}, rank)
    assert [(line["pool"], line.get("rank")) for line in folder.lines()] == [(0, None), (1, 0), (2, 1), (3, 0)]
    folder.begin([{**line, "pool": 0}])
    assert [line["pool"] for line in folder.lines()] == [0, 1, 2, 3]
    assert not (tmp_path / "ranks").exists()
