"""The limit of open files."""

from __future__ import annotations

import os
import resource
from contextlib import ExitStack
from pathlib import Path

from saepipe.data.folders.descriptors import allow_open_files


def test_more_files_can_be_open_than_the_limit_was(tmp_path: Path) -> None:
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, most))
    try:
        allow_open_files()
        with ExitStack() as files:
            for number in range(20):
                files.enter_context((tmp_path / str(number)).open("w"))
            assert len(os.listdir("/proc/self/fd")) > used + 8
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))
