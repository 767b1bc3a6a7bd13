"""Requests to real servers of each kind of object storage through a proxy with faults."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from helpers.faulty_proxy import Fault
from helpers.object_storage import ObjectStorage
from saepipe.data.bucket_address import Address
from saepipe.data.errors import CorruptDataError, MachineError, RemoteError
from saepipe.data.folders.artifact import digest_bytes
from saepipe.data.remote import bucket
from saepipe.data.remote.bucket import Bucket, bucket_of
from saepipe.data.remote.downloads import digest, download
from saepipe.data.remote.request_failures import MissingObjectError
from saepipe.data.remote.stored_objects import Listed

CONTENT = bytes(range(256)) * 64


@pytest.fixture
def objects(every_storage: ObjectStorage) -> Bucket:
    return bucket_of(every_storage.address)


def test_objects_are_put_listed_read_and_deleted(objects: Bucket, tmp_path: Path) -> None:
    version = objects.put("a/b", CONTENT)
    objects.put("ab/c", b"")
    stored = objects.read("a/b")
    assert (stored.content, stored.version) == (CONTENT, version)
    assert {key: listed.num_bytes for key, listed in objects.list("").items()} == {"a/b": 16384, "ab/c": 0}
    assert list(objects.list("a")) == ["a/b"], "a folder, not a prefix"
    assert objects.list("a")["a/b"] == Listed.of(len(CONTENT), version.e_tag)
    assert digest(objects, "a/b") == digest_bytes(CONTENT)
    download(objects, "a/b", tmp_path / "x" / "y", digest_bytes(CONTENT))
    assert (tmp_path / "x" / "y").read_bytes() == CONTENT
    objects.delete(["a/b", "never"])
    assert list(objects.list("")) == ["ab/c"]


def test_parts_are_read_and_copies_are_made(objects: Bucket) -> None:
    objects.put("a", CONTENT)
    objects.copy("a", "b/c")
    parts = objects.read_ranges("b/c", [0, 1000], [10, 20])
    assert [bytes(part) for part in parts] == [CONTENT[:10], CONTENT[1000:1020]]
    for start in (len(CONTENT) - 5, len(CONTENT) + 5):
        with pytest.raises(CorruptDataError, match="ends too early"):
            objects.read_ranges("a", [start], [10])


def test_a_large_file_goes_in_parts(every_storage: ObjectStorage, objects: Bucket, tmp_path: Path) -> None:
    content = CONTENT * 1100  # 17 MiB
    (tmp_path / "large").write_bytes(content)
    if every_storage.address.scheme == "gs":
        pytest.skip("fake-gcs-server takes no XML uploads in parts")
    objects.put("large", tmp_path / "large")
    assert every_storage.proxy.count("PUT", "/large") > 2
    assert digest(objects, "large") == digest_bytes(content)
    assert objects.list("")["large"].num_bytes == len(content)


@pytest.mark.parametrize("fault", ["503", "429", "drop", "lost", "late"])
def test_a_request_that_fails_once_is_repeated(every_storage: ObjectStorage, objects: Bucket, fault: Fault) -> None:
    every_storage.proxy.once(fault, "PUT", "a")
    objects.put("a", CONTENT)
    every_storage.proxy.once(fault, "GET", "a")
    assert objects.read("a").content == CONTENT
    assert every_storage.proxy.num_faults == 2


def test_a_listing_that_breaks_off_is_asked_for_again(every_storage: ObjectStorage, objects: Bucket) -> None:
    objects.put("a", CONTENT)
    every_storage.proxy.once("short", "GET", "list")
    assert list(objects.list("")) == ["a"]
    every_storage.proxy.always("short", "GET", "list")
    with pytest.raises(RemoteError, match="invalid list response"):
        objects.list("")


def test_an_object_is_put_only_if_there_is_none(objects: Bucket) -> None:
    first = objects.put_if("claim", b"mine", None)
    assert first
    assert objects.put_if("claim", b"theirs", None) is None
    second = objects.put_if("claim", b"mine again", first)
    assert second
    assert objects.put_if("claim", b"theirs", first) is None
    stored = objects.read("claim")
    assert (stored.content, stored.version) == (b"mine again", second)
    objects.delete(["claim"])
    assert objects.put_if("claim", b"mine at last", second) is None


def test_a_claim_whose_answer_was_lost_is_won(every_storage: ObjectStorage, objects: Bucket) -> None:
    every_storage.proxy.once("lost", "PUT", "claim")
    first = objects.put_if("claim", b"token 1", None)
    assert first
    every_storage.proxy.once("lost", "PUT", "claim")
    assert objects.put_if("claim", b"token 1, later", first)
    assert every_storage.proxy.num_faults == 2
    assert every_storage.proxy.count("PUT", "claim") == 4


def test_repetitions_end(object_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "RETRY_SECONDS", 0.5)
    object_storage.proxy.always("503", "GET", "a")
    with pytest.raises(RemoteError, match=r"cannot read s3://.*/a: SlowDown: .* \(repeated \d+ times in") as error:
        bucket_of(object_storage.address).read("a")
    assert error.value.exit_code == 6
    assert object_storage.proxy.num_faults > 1


MISSING = {
    "s3": ("NoSuchKey", "NoSuchBucket", "check the bucket's name; saepipe creates none"),
    "az": ("BlobNotFound", "ContainerNotFound", "check the container's name; saepipe creates none"),
}
"""Errors of each kind for an object and for a bucket that are not there, and the hint for a bucket."""


def test_no_bucket_and_no_object_are_errors_with_names(every_storage: ObjectStorage, objects: Bucket) -> None:
    if (scheme := every_storage.address.scheme) not in MISSING:
        pytest.skip("fake-gcs-server answers with other errors than Google Cloud does")
    no_object, no_bucket, hint = MISSING[scheme]
    with pytest.raises(MissingObjectError, match=rf"cannot read {scheme}://.*/none: {no_object}"):
        objects.read("none")
    other = bucket_of(Address(scheme, "never-made", "x"))
    with pytest.raises(RemoteError, match=f"cannot list {scheme}://never-made/x: {no_bucket}: ") as error:
        other.list("x")
    assert error.value.hint == hint
    assert "\n" not in error.value.message, "Azure adds lines with the request and the time"
    with pytest.raises(RemoteError, match=no_bucket):
        other.put("x", b"")


def test_a_server_that_is_not_there_is_named(object_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "RETRY_SECONDS", 0.2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(RemoteError, match="error sending request") as error:
        Bucket(object_storage.address).read("a")
    assert "AWS_ENDPOINT_URL" in str(error.value.hint)


def test_without_the_extra_the_command_to_install_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MachineError, match="s3://bucket needs obstore") as error:
        Bucket(Address("s3", "bucket", ""))
    assert error.value.hint == "pip install 'saepipe[cloud]'"


def test_azure_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(RemoteError, match="Account must be specified") as error:
        Bucket(Address("az", "container", ""))
    assert "AZURE_STORAGE_ACCOUNT_NAME" in str(error.value.hint)
