"""Lists of pools in a bucket tell a mirror what is a shard, wherever below it their cache lies."""

from __future__ import annotations

import pytest

from helpers.object_storage import ObjectStorage
from saepipe.data.folders.artifact import manifest_text
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.remote.listed_pools import ListedPools
from saepipe.data.remote.places import folder_of


@pytest.mark.parametrize("prefix", ["", "study/cache/"])
def test_files_have_their_names_in_the_mirror_and_each_list_is_read_once(
    object_storage: ObjectStorage, prefix: str
) -> None:
    objects, entry = bucket_of(object_storage.address), {"bytes": 5, "xxh3": "ab", "chunks": "cd"}
    for number in (0, 3):
        line = {"kind": "shard", "files": {f"acts/h/c/{number}/0": entry}}
        objects.put(f"{prefix}ranks/pools/train-{number:08d}.jsonl", manifest_text([line, {"kind": "pool"}]))
    objects.put(f"{prefix}ranks/text/train-00000001.npz", b"no list")
    pools, listed = ListedPools(folder_of(str(object_storage.address))), objects.list("")
    expected = {f"{prefix}acts/h/c/{number}/0": entry for number in (0, 3)}
    assert pools.entries(listed) == expected
    object_storage.proxy.requests.clear()
    assert pools.entries(listed) == expected
    assert object_storage.proxy.requests == []


def test_a_list_that_is_gone_by_then_is_left_to_the_manifest(object_storage: ObjectStorage) -> None:
    objects, name = bucket_of(object_storage.address), "ranks/pools/train-00000000.jsonl"
    objects.put(name, manifest_text([{"kind": "pool", "files": {"a": {"bytes": 1, "xxh3": "a"}}}]))
    listed = objects.list("")
    objects.delete([name])
    assert ListedPools(folder_of(str(object_storage.address))).entries(listed) == {}
