"""Folders that are moved, in a bucket and elsewhere."""

from __future__ import annotations

from pathlib import Path

from helpers.made_artifacts import SHARD, SMALL, made, make
from helpers.object_storage import ObjectStorage
from saepipe.data.folders.artifact import COMMITTED, MANIFEST
from saepipe.data.remote.moving import move
from saepipe.data.remote.places import folder_of, read_from, writer_lock


def test_an_artifact_is_moved_in_the_bucket_and_whole_wherever_it_is_sealed(object_storage: ObjectStorage) -> None:
    folder, _ = made(object_storage, "runs/a")
    before = object_storage.contents("runs/a")
    object_storage.proxy.requests.clear()
    move(folder, folder_of(object_storage.at("missed/a-1")))
    assert object_storage.contents() == {f"missed/a-1/{name}": content for name, content in before.items()}
    copies = [request.path for request in object_storage.proxy.requests if request.method == "PUT"]
    assert [path.rpartition("a-1/")[2] for path in copies][-1] == COMMITTED
    assert not folder.exists()
    object_storage.other_machine()
    assert {path.name for path in read_from(object_storage.at("missed/a-1")).iterdir()} >= {SMALL, MANIFEST, COMMITTED}
    with writer_lock(again := folder_of(object_storage.at("runs/a"))):
        make(again, b"new" * 9)
    assert object_storage.contents("missed/a-1")[SHARD] == before[SHARD]
    assert object_storage.contents("runs/a")[SHARD] == b"new" * 9


def test_a_local_folder_is_moved(tmp_path: Path) -> None:
    make(tmp_path / "runs" / "a")
    move(tmp_path / "runs" / "a", tmp_path / "missed" / "a")
    assert (tmp_path / "missed" / "a" / SHARD).exists()
    assert not (tmp_path / "runs" / "a").exists()
