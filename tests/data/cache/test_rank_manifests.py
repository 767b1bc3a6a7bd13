"""The lines of all ranks are read together, each pool once, until the first rank has them in the cache's manifest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from saepipe.data.cache import writer
from saepipe.data.cache.layout import Layout
from saepipe.data.cache.rank_manifests import all_have_ended, has_ended, listing_folder, read_lines, remove
from saepipe.data.folders.artifact import Line, append_manifest


def pool(number: int, kind: str = "pool") -> Line:
    return {"kind": kind, "split": "train", "pool": number, "num_rows": 5, "files": {}}


def test_lines_of_all_ranks_are_read_each_pool_once(tmp_path: Path) -> None:
    for rank, number in ((0, 0), (1, 1), (2, 2), (1, 0)):
        for kind in ("shard", "pool"):
            append_manifest(listing_folder(tmp_path, rank), pool(number, kind))
    assert [(line["kind"], line["pool"]) for line in read_lines(tmp_path)] == [
        (kind, number) for number in (0, 1, 2) for kind in ("shard", "pool")
    ]


def test_a_cache_of_one_rank_has_no_folder_of_ranks(tmp_path: Path) -> None:
    append_manifest(listing_folder(tmp_path, 0), pool(0))
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]


def test_the_ranks_manifests_go_when_the_cache_has_their_lines(tmp_path: Path) -> None:
    append_manifest(listing_folder(tmp_path, 3), pool(4))
    remove(tmp_path)
    remove(tmp_path)  # there may be none
    assert list(tmp_path.iterdir()) == []


def test_the_first_rank_knows_when_all_others_have_ended(tmp_path: Path) -> None:
    assert all_have_ended(tmp_path, 1)
    has_ended(tmp_path, 2)
    assert not all_have_ended(tmp_path, 3)
    has_ended(tmp_path, 1)
    assert all_have_ended(tmp_path, 3)


def test_the_files_of_each_rank_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the first rank asks which pools the others have listed."""
    looked: list[int] = []
    damaged = writer.damaged_files

    def counted(folder: Path, lines: list[Line], *, hashes: bool) -> Iterator[str]:
        looked.append(len(lines))
        return damaged(folder, lines, hashes=hashes)

    layout = Layout({"h": 8}, 16, 64, 32, "lossless")
    with closing(writer.CacheWriter(tmp_path, layout, {"train": 64, "heldout": 64})) as first:
        monkeypatch.setattr(writer, "damaged_files", counted)
        for number in range(5):
            append_manifest(listing_folder(tmp_path, 1), pool(number))
            first.adopt()
            first.adopt()
        assert [line["pool"] for line in first.pools("train")] == [*range(5)]
    assert sum(looked) == 5
