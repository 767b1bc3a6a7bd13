"""The one function that exports a run to every target."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import saepipe as sp
from helpers.made_stores import write_store
from helpers.object_storage import ObjectStorage
from helpers.random_runs import random_run
from saepipe.cli import main
from saepipe.data.errors import ConfigError

pytestmark = pytest.mark.quick


def test_an_sae_is_exported_to_a_library(tiny_cache: Path, tmp_path: Path) -> None:
    run = random_run(tmp_path / "run", "topk", tiny_cache)
    assert sp.export(run, "sparsify", str(tmp_path / "out")) == tmp_path / "out"
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_place_in_a_bucket_is_written_and_nothing_else_there_is_replaced(
    object_storage: ObjectStorage, tiny_cache: Path, tmp_path: Path
) -> None:
    run, out = random_run(tmp_path / "run", "topk", tiny_cache), object_storage.at("out")
    local = sp.export(run, "sparsify", tmp_path / "out")
    files = {path.relative_to(local).as_posix(): path for path in local.rglob("*") if path.is_file()}
    for _ in range(2):
        sp.export(run, "sparsify", out)
        assert object_storage.contents("out") == {name: path.read_bytes() for name, path in files.items()}
        object_storage.other_machine()
    with pytest.raises(ConfigError, match="holds something else"):
        sp.export(run, "saelens", out)
    assert object_storage.contents("out").keys() == files.keys()


def test_features_are_exported_to_neuronpedia_with_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_store(store := tmp_path / "topk" / "seed-0", 8)
    arguments = ["export", str(store), "--to", "neuronpedia", "--out", str(tmp_path / "out"), "--format", "json"]
    assert main([*arguments, "--set", "model=some-model", "--set", "creator=me"]) == 0
    written = Path(json.loads(capsys.readouterr().out)["written"])
    assert written.parent == tmp_path / "out" / "some-model"
    assert json.loads((written / "sourceset.jsonl").read_text())["creatorName"] == "me"


@pytest.mark.parametrize(
    ("target", "setting", "message"),
    [
        ("neuronpedia", "modell", "did you mean 'model'"),
        ("neuronpedia", "run", "no setting 'run'"),
        ("saelens", "library", "it has none"),
        ("llamascope", "x", "choose saelens"),
    ],
)
def test_wrong_targets_and_settings_are_refused(tmp_path: Path, target: str, setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        sp.export(tmp_path, target, tmp_path / "out", **{setting: 1})
    assert message in str(raised.value)
    assert not (tmp_path / "out").exists()
