"""Requests to a real S3 server through a proxy with faults."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from helpers.faulty_proxy import Fault
from helpers.object_storage import ObjectStorage
from saepipe.data.bucket_address import Address
from saepipe.data.errors import MachineError, RemoteError
from saepipe.data.folders.artifact import digest_bytes
from saepipe.data.remote import bucket
from saepipe.data.remote.bucket import Bucket, bucket_of
from saepipe.data.remote.downloads import digest, download
from saepipe.data.remote.request_failures import MissingObjectError

CONTENT = bytes(range(256)) * 64


@pytest.fixture
def objects(object_storage: ObjectStorage) -> Bucket:
    return bucket_of(object_storage.address)


def test_objects_are_put_listed_read_and_deleted(objects: Bucket, tmp_path: Path) -> None:
    e_tag = objects.put("a/b", CONTENT)
    objects.put("ab/c", b"")
    assert objects.read("a/b") == (CONTENT, e_tag)
    assert {key: listed.num_bytes for key, listed in objects.list("").items()} == {"a/b": 16384, "ab/c": 0}
    assert list(objects.list("a")) == ["a/b"], "a folder, not a prefix"
    assert objects.list("a")["a/b"].e_tag == e_tag
    assert digest(objects, "a/b") == digest_bytes(CONTENT)
    download(objects, "a/b", tmp_path / "x" / "y", digest_bytes(CONTENT))
    assert (tmp_path / "x" / "y").read_bytes() == CONTENT
    objects.delete(["a/b", "never"])
    assert list(objects.list("")) == ["ab/c"]


def test_a_large_file_goes_in_parts(object_storage: ObjectStorage, objects: Bucket, tmp_path: Path) -> None:
    content = CONTENT * 1100  # 17 MiB
    (tmp_path / "large").write_bytes(content)
    objects.put("large", tmp_path / "large")
    assert object_storage.proxy.count("PUT", "partNumber=") > 2
    assert digest(objects, "large") == digest_bytes(content)


@pytest.mark.parametrize("fault", ["503", "429", "drop", "lost", "late"])
def test_a_request_that_fails_once_is_repeated(object_storage: ObjectStorage, objects: Bucket, fault: Fault) -> None:
    object_storage.proxy.once(fault, "PUT", "a")
    objects.put("a", CONTENT)
    object_storage.proxy.once(fault, "GET", "a")
    assert objects.read("a")[0] == CONTENT
    assert object_storage.proxy.num_faults == 2


def test_a_listing_that_breaks_off_is_asked_for_again(object_storage: ObjectStorage, objects: Bucket) -> None:
    objects.put("a", CONTENT)
    object_storage.proxy.once("short", "GET", "list-type")
    assert list(objects.list("")) == ["a"]
    object_storage.proxy.always("short", "GET", "list-type")
    with pytest.raises(RemoteError, match="invalid list response"):
        objects.list("")


def test_an_object_is_put_only_if_there_is_none(objects: Bucket) -> None:
    first = objects.put_if("claim", b"mine", None)
    assert first
    assert objects.put_if("claim", b"theirs", None) is None
    second = objects.put_if("claim", b"mine again", first)
    assert second
    assert objects.put_if("claim", b"theirs", first) is None
    assert objects.read("claim") == (b"mine again", second)


def test_a_claim_whose_answer_was_lost_is_won(object_storage: ObjectStorage, objects: Bucket) -> None:
    object_storage.proxy.once("lost", "PUT", "claim")
    first = objects.put_if("claim", b"token 1", None)
    assert first
    object_storage.proxy.once("lost", "PUT", "claim")
    assert objects.put_if("claim", b"token 1, later", first)
    assert object_storage.proxy.num_faults == 2
    assert object_storage.proxy.count("PUT", "claim") == 4


def test_repetitions_end(object_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "RETRY_SECONDS", 0.5)
    object_storage.proxy.always("503", "GET", "a")
    with pytest.raises(RemoteError, match=r"cannot read s3://.*/a: SlowDown: .* \(repeated \d+ times in") as error:
        bucket_of(object_storage.address).read("a")
    assert error.value.exit_code == 6
    assert object_storage.proxy.num_faults > 1


def test_no_bucket_and_no_object_are_errors_with_names(objects: Bucket) -> None:
    with pytest.raises(MissingObjectError, match=r"cannot read s3://.*/none: NoSuchKey"):
        objects.read("none")
    other = bucket_of(Address("s3", "never-made", "x"))
    with pytest.raises(RemoteError, match="cannot list s3://never-made/x: NoSuchBucket") as error:
        other.list("x")
    assert error.value.hint == "check the bucket's name; saepipe creates none"
    with pytest.raises(RemoteError, match="NoSuchBucket"):
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
