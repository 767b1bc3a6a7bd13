"""The summary of a push comes before its list of files."""

from __future__ import annotations

from typing import Any

import pytest

from saepipe.evaluate.hub.summary import summary

pytestmark = pytest.mark.quick

SENT: dict[str, Any] = {
    "runs": ["l1/seed-0", "l1/seed-1"],
    "url": "https://huggingface.co/me/saes",
    "revision": "main",
    "files": {"README.md": 1200, "l1/seed-0/COMMITTED": 65},
    "bytes": 1260,
    "findings": ["l1/seed-0: H9 warning"],
    "local_paths": ["l1/seed-0/config.yaml: cache"],
    "left_out": [],
    "dry_run": True,
}


def test_a_dry_run_says_what_would_be_refused() -> None:
    lines = list(summary(SENT))
    assert lines[0] == "would push l1/seed-0, l1/seed-1 (2 files, 1.26 kB)"
    assert "findings   1 health finding at the top of the card" in lines
    assert "refused    1 place with a path of this machine: it needs --local-paths:" in lines
    assert lines.index("files") < lines.index("  README.md  1.2 kB")


def test_a_push_names_its_commit() -> None:
    lines = list(summary(SENT | {"dry_run": False, "commit": "0" * 40, "changed": False, "deleted": ["old"]}))
    assert lines[0].startswith("pushed ")
    assert f"commit     {'0' * 40} (nothing was new)" in lines
    assert "deleted    old" in lines
    assert not any(line.startswith("refused") for line in lines)
