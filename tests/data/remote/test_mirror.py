"""Mirrors of folders of a bucket: what is fetched, what is sent, in what order, and what is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers.made_artifacts import SHARD, SMALL, made, make
from helpers.object_storage import ObjectStorage
from saepipe.data.errors import CorruptDataError, HealthError, LockedError, RemoteError
from saepipe.data.folders import artifact
from saepipe.data.folders.artifact import COMMITTED, MANIFEST
from saepipe.data.remote import bucket
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.remote.mirrored_files import MirroredFiles
from saepipe.data.remote.places import (
    fetch,
    folder_of,
    joined,
    publish,
    publish_later,
    read_from,
    refresh,
    refresh_as_is,
    remove,
    send,
    writer_lock,
)

SHARD_ENTRY = {"bytes": 500, "xxh3": "0" * 16, "chunks": "0" * 8}


def files(folder: Path) -> list[str]:
    """Files in a mirror, without those of the machine."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "log")
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def test_an_artifact_is_sent_whole_its_manifest_after_its_files_its_seal_last(object_storage: ObjectStorage) -> None:
    folder, _ = made(object_storage)
    contents = object_storage.contents("made")
    assert sorted(contents) == sorted([SHARD, SMALL, MANIFEST, COMMITTED])
    assert contents[SHARD] == b"shard" * 100
    puts = [request.path.rpartition("made/")[2] for request in object_storage.proxy.requests if request.method == "PUT"]
    assert puts[0] == "log/claim"
    assert sorted(puts[1:3]) == [SHARD, SMALL]
    assert puts[3:] == [MANIFEST, COMMITTED]
    assert files(folder) == [COMMITTED, MANIFEST, SMALL], "the shard is among the copies"


def test_another_machine_fetches_all_but_the_shards(object_storage: ObjectStorage) -> None:
    made(object_storage)
    object_storage.other_machine()
    object_storage.proxy.requests.clear()
    folder = read_from(object_storage.at("made"))
    assert files(folder) == [COMMITTED, MANIFEST, SMALL]
    assert object_storage.proxy.count("GET", SHARD) == 0


def test_shards_of_unfinished_caches_stay_in_the_bucket_listed_or_not(object_storage: ObjectStorage) -> None:
    """A pool that no manifest has yet is listed by an object of its own, which is no file of a mirror."""
    objects, line = bucket_of(object_storage.address), {"kind": "shard", "files": {"stats/listed": SHARD_ENTRY}}
    objects.put("study/cache/ranks/pools/train-00000000.jsonl", artifact.manifest_text([line, {"kind": "pool"}]))
    for name in ("stats/listed", "acts/h/c/3/0", "zarr.json", "ranks/text/train-00000001.npz", "ranks/ended/1"):
        objects.put(f"study/cache/{name}", b"shard" * 100)
    for place, prefix in (("study", "cache/"), ("study/cache", "")):
        object_storage.other_machine()
        assert files(read_from(object_storage.at(place))) == [f"{prefix}zarr.json"]


def test_one_process_of_a_machine_keeps_a_mirror_that_another_machine_writes(
    object_storage: ObjectStorage, tmp_path: Path
) -> None:
    made(object_storage)
    object_storage.other_machine()
    folder, objects = folder_of(object_storage.at("made")), bucket_of(object_storage.address)
    with joined(folder) as fetch_changes:
        fetch_changes()
        assert files(folder) == [COMMITTED, MANIFEST, SMALL]
        objects.put("made/later", b"1")
        with joined(folder) as do_nothing:
            do_nothing()
            read_from(folder)
            assert not (folder / "later").exists()
        fetch_changes()
        assert (folder / "later").exists()
        with pytest.raises(LockedError, match="another process is writing"), writer_lock(folder):
            pass
    with joined(tmp_path / "folder") as do_nothing:
        do_nothing()
    assert not (tmp_path / "folder").exists()


def test_nothing_is_fetched_or_sent_twice(object_storage: ObjectStorage) -> None:
    folder, _ = made(object_storage)
    object_storage.proxy.requests.clear()
    read_from(folder)
    assert [request.method for request in object_storage.proxy.requests] == ["GET"], "the listing"
    object_storage.restart()
    object_storage.proxy.requests.clear()
    read_from(folder)
    assert object_storage.proxy.count("GET") == 3, "the listing, the manifest and the seal"


def test_what_is_removed_here_is_removed_there(object_storage: ObjectStorage) -> None:
    folder, _ = made(object_storage)
    object_storage.other_machine()
    folder = folder_of(object_storage.at("made"))
    with writer_lock(folder):
        (folder / SMALL).unlink()
        artifact.rewrite_manifest(folder, [])
        object_storage.proxy.requests.clear()
        publish(folder)
    assert list(object_storage.contents("made")) == [MANIFEST], "also the shard, which was not here"
    changes = [request.method for request in object_storage.proxy.requests if request.method != "GET"]
    assert changes == ["POST", "PUT", "POST", "POST", "POST"], "the seal goes first, the claim last"


def test_what_a_dead_process_did_not_send_is_not_there(object_storage: ObjectStorage) -> None:
    folder, _ = made(object_storage)
    (folder / "unsent").write_bytes(b"1")
    (folder / SMALL).write_bytes(b"changed")
    with writer_lock(folder):
        assert files(folder) == [COMMITTED, MANIFEST, SMALL]
        assert (folder / SMALL).read_bytes() == b"{}"


def test_what_a_process_of_this_machine_is_writing_is_left_alone(object_storage: ObjectStorage) -> None:
    folder, _ = made(object_storage, "runs/a")
    with writer_lock(folder):
        (folder / "new").write_bytes(b"1")
        refresh(folder)
        read_from(object_storage.at("runs"))
        assert (folder / "new").exists()
    assert "new" in object_storage.contents("runs/a")
    (folder / "left").write_bytes(b"1")
    read_from(object_storage.at("runs"))
    assert not (folder / "left").exists()


def test_two_machines_cannot_seal_different_things(object_storage: ObjectStorage) -> None:
    folder = folder_of(object_storage.at("made"))
    with writer_lock(folder):
        make(folder)
        bucket_of(object_storage.address).put(f"made/{COMMITTED}", b"other\n")
        with pytest.raises(LockedError, match=f"{COMMITTED} was put by another process"):
            publish(folder)
        (folder / COMMITTED).unlink()
    assert object_storage.contents("made")[COMMITTED] == b"other\n"


def test_a_seal_whose_answer_was_lost_is_put(object_storage: ObjectStorage) -> None:
    object_storage.proxy.once("lost", "PUT", COMMITTED)
    made(object_storage)
    assert object_storage.proxy.num_faults == 1


def test_an_artifact_is_made_again_in_place(object_storage: ObjectStorage) -> None:
    folder, _ = made(object_storage)
    with writer_lock(folder):
        make(folder, b"other" * 50)
    assert object_storage.contents("made")[SHARD] == b"other" * 50
    assert read_from(folder)


def test_checkpoints_come_only_to_go_on(object_storage: ObjectStorage) -> None:
    folder, name = folder_of(object_storage.at("run")), "checkpoints/5/state.json"
    with writer_lock(folder):
        make(folder, seal=False)
        artifact.write_file(folder / name, b"{}")
    object_storage.other_machine()
    folder = read_from(object_storage.at("run"))
    assert name not in files(folder)
    with writer_lock(folder):
        assert name in files(folder)
        artifact.commit(folder)
    object_storage.other_machine()
    folder = folder_of(object_storage.at("run"))
    with writer_lock(folder):
        assert name not in files(folder), "it is finished"
    assert name in object_storage.contents("run")


def test_a_damaged_small_file_is_never_read(object_storage: ObjectStorage) -> None:
    made(object_storage)
    bucket_of(object_storage.address).put(f"made/{SMALL}", b"[]")
    object_storage.other_machine()
    with pytest.raises(CorruptDataError, match=rf"made/{SMALL} has other content"):
        read_from(object_storage.at("made"))


def test_what_is_sent_later_is_there_when_the_lock_ends(object_storage: ObjectStorage) -> None:
    folder, proxy = folder_of(object_storage.at("run")), object_storage.proxy
    proxy.always("held", "PUT", "run/a")
    with writer_lock(folder):
        (folder / "a").write_bytes(b"1")
        publish_later(folder)
        assert object_storage.contents("run").keys() == {"log/claim"}
        proxy.go.set()
        (folder / "a").write_bytes(b"23")
        (folder / "b").write_bytes(b"4")
        publish_later(folder)
    assert object_storage.contents("run") == {"a": b"23", "b": b"4"}


def end_by(error: BaseException, folder: Path) -> None:
    """Ends a writer by an error, after it has begun to send one of two files."""
    with writer_lock(folder):
        (folder / "a").write_bytes(b"1")
        publish_later(folder)
        (folder / "b").write_bytes(b"2")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), HealthError("x")])
def test_what_was_begun_to_be_sent_is_sent_when_a_writer_ends_by_an_error(
    object_storage: ObjectStorage, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        end_by(error, folder_of(object_storage.at("run")))
    assert object_storage.contents("run") == {"a": b"1"}


def test_what_could_not_be_sent_is_an_error_of_the_next_call_and_is_sent_again(
    object_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "RETRY_SECONDS", 0.2)
    folder = folder_of(object_storage.at("run"))
    with writer_lock(folder):
        object_storage.proxy.always("503", "PUT", "run/a")
        (folder / "a").write_bytes(b"1")
        publish_later(folder)
        with pytest.raises(RemoteError, match="cannot write .*run/a: SlowDown"):
            publish_later(folder)
        object_storage.proxy.fault = lambda method, path: None
        publish_later(folder)
    assert object_storage.contents("run") == {"a": b"1"}


@pytest.mark.parametrize(("error", "shown"), [(KeyboardInterrupt(), RemoteError), (HealthError("x"), HealthError)])
def test_a_stop_whose_last_files_cannot_be_sent_is_an_error(
    object_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch, error: BaseException, shown: type[Exception]
) -> None:
    monkeypatch.setattr(bucket, "RETRY_SECONDS", 0.2)
    object_storage.proxy.always("503", "PUT", "run/a")
    with pytest.raises(shown):
        end_by(error, folder_of(object_storage.at("run")))


def test_keys_that_lead_out_of_the_mirror_are_refused(object_storage: ObjectStorage) -> None:
    folder, _ = made(object_storage)
    (folder.parent / "elsewhere").mkdir()
    (folder / "link").symlink_to(folder.parent / "elsewhere")
    bucket_of(object_storage.address).put("made/link/x", b"")
    with pytest.raises(CorruptDataError, match="a symbolic link leads out of it"):
        read_from(folder)


def test_files_may_be_fetched_as_they_are_and_are_compared_again_before_they_are_read(
    object_storage: ObjectStorage,
) -> None:
    folder, _ = made(object_storage)
    bucket_of(object_storage.address).put(f"made/{SMALL}", b"[]")
    refresh_as_is(folder)
    assert (folder / SMALL).read_bytes() == b"[]"
    with pytest.raises(CorruptDataError, match=rf"made/{SMALL} has other content"):
        read_from(folder)


def test_single_files_are_fetched_and_removed_at_once(object_storage: ObjectStorage) -> None:
    folder, _ = made(object_storage)
    objects = bucket_of(object_storage.address)
    objects.put("made/record", b"1")
    fetch(folder / "record")
    assert (folder / "record").read_bytes() == b"1"
    objects.delete(["made/record"])
    fetch(folder / "record")
    assert not (folder / "record").exists()
    with writer_lock(folder):
        remove(folder, [SHARD, SMALL])
        assert not {SHARD, SMALL} & object_storage.contents("made").keys()
        assert not (folder / SMALL).exists()


def test_nothing_at_an_address_is_an_error(object_storage: ObjectStorage) -> None:
    with pytest.raises(RemoteError, match=f"there is nothing at {object_storage.at('none')}"):
        read_from(object_storage.at("none"))


def test_a_local_folder_is_itself(tmp_path: Path) -> None:
    make(tmp_path)
    assert folder_of(str(tmp_path)) == read_from(tmp_path) == tmp_path
    for call in (refresh, refresh_as_is, publish, publish_later, fetch, send):
        call(tmp_path)


def test_a_single_file_is_sent(object_storage: ObjectStorage) -> None:
    page = folder_of(object_storage.at("report.html"))
    artifact.write_file(page, b"<html>")
    send(page)
    assert object_storage.contents() == {"report.html": b"<html>"}


def test_what_is_begun_while_another_process_fetches_stays(
    object_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(object_storage)
    object_storage.other_machine()
    folder = folder_of(object_storage.at("made"))
    begun, fetched = folder / "run" / "metrics.jsonl", MirroredFiles.fetch

    def while_fetching(self: MirroredFiles, names: Sequence[str], *more: Any, **options: Any) -> None:
        begun.parent.mkdir(parents=True, exist_ok=True)
        begun.write_text("{}\n")
        fetched(self, names, *more, **options)

    monkeypatch.setattr(MirroredFiles, "fetch", while_fetching)
    refresh(folder)
    assert begun.exists()
