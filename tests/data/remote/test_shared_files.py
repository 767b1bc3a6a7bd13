"""Files that processes share: on disk, or as objects of which no mirror has a copy."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from helpers.object_storage import ObjectStorage
from saepipe.data.bucket_address import mirrored
from saepipe.data.errors import CorruptDataError
from saepipe.data.remote.places import folder_of
from saepipe.data.remote.shared_files import SharedFiles


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_files_are_written_listed_read_and_removed(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = tmp_path / "shared"
    if place == "bucket":
        storage: ObjectStorage = request.getfixturevalue("object_storage")
        folder = folder_of(storage.at("cache/shared"))
    files = SharedFiles(folder)
    pauses = [*islice(files.pauses(), 20)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.05, 0.2 if place == "folder" else 1.0)
    assert files.names() == []
    assert files.read("a") is None
    files.remove("a")  # there may be none
    for name in "cab":
        files.write(name, name.encode())
    files.write("b", b"again")
    assert files.names() == ["a", "b", "c"]
    assert files.read("b") == b"again"
    assert files.read_all(["c", "b", "none"], bool) == [b"c", b"again", b""]
    files.remove("a")
    assert files.names() == ["b", "c"]
    assert folder.exists() == (mirrored(folder) is None)
    files.clear()
    files.clear()
    assert files.names() == []
    assert not folder.exists()


def test_an_answer_without_its_end_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saepipe.data.remote.request_failures.time.sleep", lambda _: None)
    files, answers = SharedFiles(tmp_path), [b"a list", b"a list\n"]
    monkeypatch.setattr(files, "read", lambda _: answers.pop(0))
    assert files.read_whole("a", lambda content: content.endswith(b"\n")) == b"a list\n"
    answers += [b"a li"] * 100
    with pytest.raises(CorruptDataError, match="/a ends too early"):
        files.read_whole("a", lambda content: content.endswith(b"\n"))
    monkeypatch.setattr(files, "read", lambda _: None)
    assert files.read_whole("a", bool) is None
