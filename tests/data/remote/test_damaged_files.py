"""Damage to listed files, in a bucket and in a folder."""

from __future__ import annotations

from pathlib import Path

from helpers.made_artifacts import SHARD, SMALL, made, make
from helpers.object_storage import ObjectStorage
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.remote.damaged_files import damaged_files
from saepipe.data.remote.places import read_from


def test_damage_in_the_bucket_is_named(object_storage: ObjectStorage) -> None:
    folder, line = made(object_storage)
    objects, at = bucket_of(object_storage.address), object_storage.at("made")
    assert list(damaged_files(folder, [line])) == []
    objects.put(f"made/{SHARD}", b"Shard" * 100)
    read_from(folder)
    assert list(damaged_files(folder, [line], hashes=False)) == []
    assert list(damaged_files(folder, [line])) == [
        f"{at}/{SHARD} has other content than the manifest lists (xxh3 differs)"
    ]
    objects.put(f"made/{SHARD}", b"short")
    read_from(folder)
    assert list(damaged_files(folder, [line], hashes=False)) == [f"{at}/{SHARD} has 5 bytes, not 500"]
    objects.delete([f"made/{SHARD}"])
    assert list(damaged_files(folder, [line])) == [f"{at}/{SHARD} has 5 bytes, not 500"], "as listed last"
    read_from(folder)
    assert list(damaged_files(folder, [line], hashes=False)) == [f"{at}/{SHARD} is missing"]


def test_what_vanishes_after_the_listing_is_missing(object_storage: ObjectStorage) -> None:
    folder, line = made(object_storage)
    bucket_of(object_storage.address).delete([f"made/{SHARD}"])
    assert list(damaged_files(folder, [line])) == [f"{object_storage.at('made')}/{SHARD} is missing"]


def test_damage_in_a_folder_is_named(tmp_path: Path) -> None:
    line = make(tmp_path)
    (tmp_path / SMALL).unlink()
    assert list(damaged_files(tmp_path, [line])) == [f"{tmp_path / SMALL} is missing"]
