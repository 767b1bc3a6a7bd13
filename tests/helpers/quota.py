"""A quota on this user's disk space, as the program `quota` reports it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_REPORT = """#!/bin/sh
echo "Disk quotas for user somebody (uid 1000):"
echo "     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace"
echo "      /dev/sda1   10000*   10000   {limit}       0       1       0       0       0"
exit 1
"""


def set_quota(monkeypatch: pytest.MonkeyPatch, folder: Path, kibibytes: int) -> None:
    """Makes `quota`, found in `folder`, report that `kibibytes` are left, or no limit if that is None."""
    program = folder / "quota"
    program.write_text(_REPORT.format(limit=10000 + kibibytes))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
