"""Errors of the machine and its file system have their exit codes, with the path and what would do."""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from helpers.read_only import read_only
from saepipe.data.errors import explain
from saepipe.data.folders.artifact import atomic_file, write_file

pytestmark = pytest.mark.quick


@pytest.fixture
def file_size_limit() -> Iterator[int]:
    """Limits files of this process to 4,096 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield 4096
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def explained(action: Callable[[], object]) -> tuple[int, str, str | None]:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - `explain` takes any
        action()
    return explain(caught.value)


def save_tensors(path: Path, num_bytes: int) -> None:
    with atomic_file(path, num_bytes) as partial:
        save_file({"x": np.zeros(num_bytes, np.uint8)}, partial)


def test_a_file_above_the_size_limit(file_size_limit: int, tmp_path: Path) -> None:
    for action in (
        lambda: write_file(tmp_path / "file", bytes(file_size_limit + 1)),
        lambda: save_tensors(tmp_path / "file", 2 * file_size_limit),
    ):
        code, message, hint = explained(action)
        assert (code, "ulimit -f" in str(hint)) == (5, True)
        assert message.startswith(f"cannot write {tmp_path / 'file'} (")
        assert message.endswith(" bytes): File too large")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(number: int, tmp_path: Path) -> None:
    with read_only(tmp_path, number):
        code, message, hint = explained(lambda: write_file(tmp_path / "file", b"x"))
    assert (code, "free some disk space" in str(hint)) == (5, True)
    assert str(tmp_path / "file") in message


@pytest.mark.parametrize("text", ["IoError(Os { code: 28, kind: StorageFull })", "I/O error: ... (os error 122)"])
def test_tensors_on_a_full_disk(text: str) -> None:
    code, _, hint = explain(SafetensorError(f"Error while serializing: {text}"))
    assert (code, "free some disk space" in str(hint)) == (5, True)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE])
def test_a_machine_that_refuses(number: int, tmp_path: Path) -> None:
    with read_only(tmp_path, number):
        for action in (lambda: write_file(tmp_path / "file", b"x"), lambda: (tmp_path / "folder").mkdir()):
            code, message, hint = explained(action)
            assert (code, str(tmp_path) in message, bool(hint)) == (3, True, True)


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "below", tmp_path / ("x" * 300), tmp_path):
        code, message, _ = explained(lambda path=path: path.open("w"))  # type: ignore[misc]
        assert (code, str(path) in message) == (2, True)


def test_a_missing_file_of_ours_stays_a_bug(tmp_path: Path) -> None:
    code, message, _ = explained((tmp_path / "none").read_text)
    assert (code, message.startswith("a bug in saepipe")) == (1, True)
