"""A study in a bucket: that of a folder, also if another machine goes on with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import saepipe as sp
from helpers.killed_training import KillAfter, Killed
from helpers.object_storage import ObjectStorage
from helpers.small_study import plain_study
from saepipe.data.bucket_address import mirrors
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.study.config import StudyConfig
from saepipe.evaluate.study.plan import plan_study
from saepipe.evaluate.study.run import study
from saepipe.evaluate.study.status import status

WEIGHTS = "sae/sae_weights.safetensors"


def test_another_machine_goes_on_and_finds_what_a_folder_would_hold(
    object_storage: ObjectStorage, toy_cache: Path, tmp_path: Path
) -> None:
    """Its arm asks for an L0 that the SAE misses, so that it is trained again, and its first runs are moved."""
    lagging = {"name": "lagging", "sae": {"name": "relu", "d_sae": 64}, "penalties": [{"name": "l1", "weight": 0.01}]}
    plain = plain_study(toy_cache, arms=[lagging], l0=8, seeds=[0, 1, 2], spreads={"explained_variance": 0.001})
    local = study(plain, tmp_path / "study")
    out = object_storage.at("study")
    with pytest.raises(Killed):
        study(plain, out, progress=KillAfter(60))
    object_storage.other_machine()
    assert status(StudyConfig.parse(plain), Path(out))["verdict"] is None
    progress = Silent()
    outcome = study(plain, out, progress=progress)
    assert outcome.paragraph == local.paragraph
    contents = object_storage.contents("study")
    theirs = {path.relative_to(tmp_path / "study").as_posix(): path for path in (tmp_path / "study").rglob("*")}
    names = {name for name in theirs if name.endswith((WEIGHTS, "COMMITTED"))}
    assert any(name.startswith("missed/lagging") for name in names)
    assert {name for name in contents if name.endswith((WEIGHTS, "COMMITTED"))} == names
    assert all(contents[name] == theirs[name].read_bytes() for name in names)
    assert json.loads(contents["study.json"]) == json.loads((tmp_path / "study" / "study.json").read_text())
    assert contents["paragraph.txt"].decode() == f"{local.paragraph}\n"
    assert "report-l0-8.html" in contents
    assert not any(str(mirrors()).encode() in content for content in contents.values()), "no path of this machine"

    object_storage.other_machine()
    standing = status(StudyConfig.parse(plain), Path(out))
    assert standing["verdict"] == f"{local.paragraph}\n"
    assert standing["arms"].keys() == {"baseline-l0-8", "lagging-l0-8"}
    assert plan_study(StudyConfig.parse(plain), Path(out)).finished == 6

    object_storage.other_machine()
    sp.compare(f"{out}/runs")  # mirrors the runs alone
    study(plain, out)
    again = object_storage.contents("study")
    assert {name: again[name] for name in names} == {name: contents[name] for name in names}
