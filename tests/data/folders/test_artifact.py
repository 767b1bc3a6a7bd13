"""Locks where the file system has none or cannot be written to, and damaged seals."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from helpers.interrupted_harvests import contents
from helpers.read_only import read_only
from saepipe.data.errors import ConfigError, CorruptDataError, LockedError, explain
from saepipe.data.folders import artifact

pytestmark = pytest.mark.quick


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "sealed"
    artifact.write_file(folder / "file", b"content")
    artifact.rewrite_manifest(folder, [{"files": artifact.digest_files(folder, ["file"])}])
    artifact.commit(folder)
    return folder


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_file_system_without_locks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    for _ in range(2):
        with artifact.writer_lock(tmp_path), pytest.raises(LockedError), artifact.writer_lock(tmp_path):
            pass


def test_a_finished_artifact_that_cannot_be_written_to_needs_no_lock(sealed: Path, tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    with read_only(tmp_path):
        with artifact.writer_lock(sealed):
            pass
        with pytest.raises(OSError, match="Read-only") as caught, artifact.writer_lock(tmp_path / "unfinished"):
            pass
    assert explain(caught.value)[0] == 3
    assert "log" not in os.listdir(sealed)


def test_a_folder_in_the_place_of_the_lock(tmp_path: Path) -> None:
    (tmp_path / "log" / "lock").mkdir(parents=True)
    with pytest.raises(ConfigError, match="log/lock is a folder") as caught, artifact.writer_lock(tmp_path):
        pass
    assert caught.value.hint == "remove it"


@pytest.mark.parametrize("seal", [b"", b"\xff\xfe\x00", b"a digest", b"x" * 64])
def test_a_damaged_seal_is_named(seal: bytes, sealed: Path) -> None:
    (sealed / artifact.COMMITTED).write_bytes(seal)
    before = contents(sealed)
    with pytest.raises(CorruptDataError, match="COMMITTED holds no digest"):
        artifact.open_committed(sealed, "cache")
    assert contents(sealed) == before
