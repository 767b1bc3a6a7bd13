"""Room on a disk, by what is free at the mount and by the user's quota."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from helpers.quota import set_quota
from saepipe.data.errors import OutOfSpaceError
from saepipe.data.folders.disk import require_room, room_at

pytestmark = pytest.mark.quick


def test_the_room_of_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    room = room_at(tmp_path / "not" / "yet")
    assert os.path.ismount(room.mount)
    assert tmp_path.resolve().is_relative_to(room.mount)
    assert room.num_bytes == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert not room.is_quota


def test_a_quota_counts_if_it_leaves_less_than_the_disk_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_quota(monkeypatch, tmp_path, kibibytes=5)
    room = room_at(tmp_path)
    assert (room.num_bytes, room.is_quota) == (5 * 1024, True)
    require_room(tmp_path, 5 * 1024, "it", "less")
    with pytest.raises(OutOfSpaceError, match="it needs 5,121 bytes, but the quota leaves 5,120 bytes at /") as caught:
        require_room(tmp_path, 5 * 1024 + 1, "it", "less")
    assert caught.value.hint == "free some disk space, choose another --out, or less"


def test_a_quota_program_that_does_not_answer_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_quota(monkeypatch, tmp_path, kibibytes=5)
    (tmp_path / "quota").write_text("#!/bin/sh\necho quota: none\nexit 2\n")
    assert not room_at(tmp_path).is_quota


def test_more_than_the_disk_has(tmp_path: Path) -> None:
    with pytest.raises(OutOfSpaceError, match="it needs 1,000,000,000.00 GB, but there are [0-9,.]+ GB at /"):
        require_room(tmp_path, 10**18, "it", "less")
