"""A folder that appears complete or not at all."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest

from helpers.interrupted_harvests import contents
from saepipe.data.errors import ConfigError
from saepipe.data.folders.atomic_folder import atomic_folder

pytestmark = pytest.mark.quick


def write(out: Path, files: dict[str, str]) -> None:
    with atomic_folder(out) as folder:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


def test_it_appears_complete_and_may_be_written_again(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    for _ in range(2):
        write(out, {"a/b": "1", "c": "2"})
        assert contents(out) == {"a/b": b"1", "c": b"2"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("other", [{"a/b": "1"}, {"a/b": "1", "c": "3"}, {"a/b": "1", "c": "2", "d": ""}])
def test_a_folder_with_other_contents_is_refused_and_kept(tmp_path: Path, other: dict[str, str]) -> None:
    out = tmp_path / "out"
    write(out, other)
    before = contents(out)
    with pytest.raises(ConfigError, match="holds something else"):
        write(out, {"a/b": "1", "c": "2"})
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_accepted_but_a_file_or_link_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", {"a": "1"})
    assert contents(tmp_path / "empty") == {"a": b"1"}
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("file", "link"):
        with pytest.raises(ConfigError, match="is not a folder"):
            write(tmp_path / name, {"a": "1"})


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "a").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    killed = subprocess.Popen(["true"])
    killed.wait()
    left_over = tmp_path / f"out.partial-{platform.node()}-{killed.pid}"
    others = [tmp_path / f"out.partial-{platform.node()}-{os.getppid()}", tmp_path / f"out.partial-else-{killed.pid}"]
    for folder in (left_over, *others):
        folder.mkdir()
        (folder / "file").write_text("half")
    write(tmp_path / "out", {"c": "2"})
    assert {path.name for path in tmp_path.iterdir()} == {"out", *(folder.name for folder in others)}
