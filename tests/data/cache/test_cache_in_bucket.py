"""Caches in a bucket: the bytes of a folder, read and repaired as there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.made_caches import structured_rows, write_cache
from helpers.object_storage import ObjectStorage
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.codecs import Profile
from saepipe.data.errors import CorruptDataError
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.remote.mirrored_files import MirroredFiles
from saepipe.data.remote.request_failures import MissingObjectError

HOOK = "blocks.1.hook_resid_post"
ROWS = {HOOK: structured_rows(5000, 64)}
SHARD = f"acts/{HOOK}/c/1/0"


@pytest.mark.parametrize("profile", ["lossless", "none", "int8"])
def test_a_bucket_holds_and_gives_what_a_folder_does(
    object_storage: ObjectStorage, tmp_path: Path, profile: Profile
) -> None:
    local = write_cache(tmp_path / "cache", ROWS, profile=profile, snr_floor=0)
    write_cache(object_storage.at("cache"), ROWS, profile=profile, snr_floor=0)
    files = {path.relative_to(local).as_posix(): path for path in local.rglob("*") if path.is_file()}
    contents = object_storage.contents("cache")
    assert contents == {name: path.read_bytes() for name, path in files.items() if not name.startswith("log/")}
    object_storage.other_machine()
    cache = Cache.open(object_storage.at("cache"))
    assert cache.fingerprint == Cache.open(local).fingerprint
    assert (cache[:] == Cache.open(local)[:]).all()
    assert cache.damage() == []


def test_what_the_manifest_lists_and_the_bucket_lacks_is_an_error_not_zeros(object_storage: ObjectStorage) -> None:
    write_cache(object_storage.at("cache"), ROWS)
    object_storage.other_machine()
    cache = Cache.open(object_storage.at("cache"))
    objects = bucket_of(object_storage.address)
    objects.delete([f"cache/{SHARD}"])
    with pytest.raises(MissingObjectError, match=SHARD):
        cache[:]
    with pytest.raises(CorruptDataError, match=rf"{object_storage.at('cache')}/{SHARD} is missing"):
        Cache.open(object_storage.at("cache"))
    objects.put(f"cache/{SHARD}", b"")
    with pytest.raises(CorruptDataError, match="has 0 bytes, not"):
        Cache.open(object_storage.at("cache"))


def test_a_shard_that_was_exchanged_is_never_read(object_storage: ObjectStorage) -> None:
    write_cache(object_storage.at("cache"), {HOOK: ROWS[HOOK]}, profile="none")
    objects = bucket_of(object_storage.address)
    objects.put(f"cache/{SHARD}", objects.read(f"cache/acts/{HOOK}/c/0/0").content)
    object_storage.other_machine()
    cache = Cache.open(object_storage.at("cache"))
    assert len(cache.damage()) == 1
    with pytest.raises(CorruptDataError, match="xxh3 differs"):
        cache[:]


def test_a_pool_is_sent_without_a_look_at_those_before(
    object_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of pools, the mirror is walked, and its manifests are read, as often."""
    walks: list[int] = []
    walk = MirroredFiles.here

    def counted(files: MirroredFiles) -> Any:
        walks[-1] += 1
        return walk(files)

    monkeypatch.setattr(MirroredFiles, "here", counted)
    for name, num_pools in (("few", 2), ("many", 8)):
        walks.append(0)
        rows = {HOOK: ROWS[HOOK][: 256 * num_pools]}
        write_cache(object_storage.at(name), rows, shard_rows=256, pool_shards=1)
        assert len(Cache.open(object_storage.at(name))) == 256 * num_pools
    assert walks[0] == walks[1] > 0
