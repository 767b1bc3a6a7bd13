"""Whole objects, compared with what is listed of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.faulty_proxy import Fault
from helpers.object_storage import ObjectStorage
from saepipe.data.errors import CorruptDataError
from saepipe.data.folders.artifact import digest_bytes
from saepipe.data.remote import downloads
from saepipe.data.remote.bucket import Bucket, bucket_of
from saepipe.data.remote.downloads import download

CONTENT = bytes(range(256)) * 64


@pytest.fixture
def objects(object_storage: ObjectStorage) -> Bucket:
    return bucket_of(object_storage.address)


@pytest.mark.parametrize("fault", ["cut", "short"])
def test_a_body_that_breaks_off_is_completed(
    object_storage: ObjectStorage, objects: Bucket, tmp_path: Path, fault: Fault
) -> None:
    objects.put("a", CONTENT)
    object_storage.proxy.once(fault, "GET", "a")
    download(objects, "a", tmp_path / "a", digest_bytes(CONTENT))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert object_storage.proxy.count("GET", "/a") == 2


def test_content_other_than_listed_is_damage(objects: Bucket, tmp_path: Path) -> None:
    objects.put("a", CONTENT)
    for expected in (digest_bytes(CONTENT[:-1] + b"x"), digest_bytes(CONTENT[:-1])):
        with pytest.raises(CorruptDataError, match=r"s3://bucket-\w+/a has .*, 4 times"):
            download(objects, "a", tmp_path / "a", expected)
    assert list(tmp_path.glob("a*")) == []


def test_two_processes_may_fetch_an_object_at_once(
    objects: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins and ends while the first has the content, but not yet under its name."""
    objects.put("a", CONTENT)
    fill, filled = downloads._fill, list[Path]()

    def slow_fill(path: Path, *others: Any) -> None:
        fill(path, *others)
        filled.append(path)
        if len(filled) == 1:
            download(objects, "a", tmp_path / "a", digest_bytes(CONTENT))

    monkeypatch.setattr(downloads, "_fill", slow_fill)
    download(objects, "a", tmp_path / "a", digest_bytes(CONTENT))
    assert len(filled) == 2
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.glob("a*")] == ["a"]
