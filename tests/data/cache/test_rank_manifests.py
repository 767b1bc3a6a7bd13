"""The lines of all ranks are read together, each pool once, until the first rank has them in the cache's manifest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from helpers.object_storage import ObjectStorage
from saepipe.data.cache import writer
from saepipe.data.cache.layout import Layout
from saepipe.data.cache.rank_manifests import all_have_ended, has_ended, list_pool, read_lines, remove
from saepipe.data.folders.artifact import Line
from saepipe.data.ranks.kept import KEPT
from saepipe.data.remote.places import folder_of


def pool(number: int, kind: str = "pool") -> Line:
    return {"kind": kind, "split": "train", "pool": number, "num_rows": 5, "files": {}}


def test_lines_of_all_ranks_are_read_each_pool_once(tmp_path: Path) -> None:
    for rank, number in ((0, 0), (1, 1), (2, 2), (1, 0)):
        list_pool(tmp_path, rank, [pool(number, "shard"), pool(number)])
    assert [(line["kind"], line["pool"]) for line in read_lines(tmp_path)] == [
        (kind, number) for number in (0, 1, 2) for kind in ("shard", "pool")
    ]


def test_in_a_bucket_each_pool_has_a_list_of_its_own_and_known_ones_are_not_read(object_storage: ObjectStorage) -> None:
    """Whatever the number of pools, listing one more sends as much."""
    cache = folder_of(object_storage.at("cache"))
    cache.mkdir(parents=True)
    sent, kept = list[int](), KEPT.number
    for rank, number in ((0, 0), (1, 1), (2, 2), (1, 0)):
        object_storage.proxy.requests.clear()
        list_pool(cache, rank, [pool(number, "shard"), pool(number)])
        sent.append(sum(request.num_sent for request in object_storage.proxy.requests))
    assert sent == [sent[0]] * 4
    assert KEPT.number == kept + 4
    object_storage.proxy.requests.clear()
    object_storage.other_machine()
    cache = folder_of(object_storage.at("cache"))
    assert [(line["kind"], line["pool"]) for line in read_lines(cache, {("train", 1)})] == [
        ("shard", 0),
        ("pool", 0),
        ("shard", 2),
        ("pool", 2),
    ]
    assert object_storage.proxy.count("GET", "train-00000001.jsonl") == 0
    remove(cache)
    assert object_storage.contents("cache/ranks") == {}


def test_a_cache_of_one_rank_has_no_folder_of_ranks(tmp_path: Path) -> None:
    list_pool(tmp_path, 0, [pool(0)])
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.jsonl"]


def test_the_ranks_manifests_go_when_the_cache_has_their_lines(tmp_path: Path) -> None:
    list_pool(tmp_path, 3, [pool(4)])
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
            list_pool(tmp_path, 1, [pool(number)])
            first.adopt()
            first.adopt()
        assert [line["pool"] for line in first.pools("train")] == [*range(5)]
    assert sum(looked) == 5
