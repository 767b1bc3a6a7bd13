"""An int8 cache (format_version 2) and its run, made by commit c89d372, are still opened, verified and evaluated."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import saepipe as sp
from saepipe.data.folders.artifact import damaged_files, open_committed
from saepipe.data.terminal.progress import Silent

pytestmark = pytest.mark.quick

MADE = Path(__file__).parent / "fixtures" / "made_at_c89d372"
HOOK = "blocks.2.hook_resid_post"
FINGERPRINT = "52c53d25d02db2ec6da9c438d6f012542abd4bc45340e9d95dc5a72e97963a28"
ROWS = "252c5132f00c50af557dec1d172d35b1bc5a58d0c6b3ae4c44014a7c4e7ccd79"
RUN = "runs/base/seed-0"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what was made then; the run names its cache by the relative path `cache`."""
    shutil.copytree(MADE, tmp_path / "made")
    monkeypatch.chdir(tmp_path / "made")
    return tmp_path / "made"


def test_the_cache_is_whole_and_its_rows_are_decoded_as_before(here: Path) -> None:
    cache = sp.open_cache("cache")
    assert (cache.attributes["format_version"], cache.attributes["codec"]) == (2, "int8")
    assert (cache.fingerprint, cache.num_tokens) == (FINGERPRINT, 512)
    assert not list(damaged_files(here / "cache", open_committed(here / "cache", "cache")[1]))
    rows = np.asarray(cache.rows(HOOK).read(0, cache.num_tokens))
    assert hashlib.sha256(rows.tobytes()).hexdigest() == ROWS


def test_its_run_is_whole_and_evaluates_to_the_same_figures(here: Path) -> None:
    assert sp.open_run(RUN).cache_fingerprint == FINGERPRINT
    assert not list(damaged_files(here / RUN, open_committed(here / RUN, "run")[1]))
    core = {"metrics": [{"name": "core"}], "features": None, "device": "cpu"}
    (path,) = sp.evaluate([RUN], core, out="elsewhere", progress=Silent())
    ours, theirs = (json.loads(Path(p).read_text()) for p in (path, here / RUN / "eval" / "core.json"))
    for category, figures in theirs["eval_result_metrics"].items():
        for key, figure in figures.items():
            assert ours["eval_result_metrics"][category][key] == pytest.approx(figure, rel=1e-3, abs=1e-4), key
