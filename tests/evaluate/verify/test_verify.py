"""Verification of everything below a path: each kind is found, its damage named, and what can be remade is cleared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from helpers.made_parts import NOTES, RESULT, STORE, WEIGHTS, WORK, damage, files_of, make_parts
from saepipe.cli import main
from saepipe.data.errors import ConfigError, LockedError
from saepipe.data.folders import artifact
from saepipe.evaluate.verify.run import verify
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

pytestmark = pytest.mark.quick


@pytest.fixture
def study(tmp_path: Path, tiny_cache: Path) -> Path:
    return make_parts(tmp_path, tiny_cache)


def test_everything_below_a_folder_is_checked(study: Path) -> None:
    verified = verify(study)
    kinds = {"cache": 1, "kept work": 1, "run": 1, "result": 1, "feature store": 1, "notes": 1}
    assert verified.checked == kinds
    assert verified.damaged == verified.unfinished == verified.without_digest == []


@pytest.mark.parametrize("kind", [RESULT, STORE, WORK, NOTES, WEIGHTS])
def test_damage_is_named_and_cleared_if_a_command_can_make_it_again(
    study: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files_of(study)[kind]
    damage(path)
    assert main(["verify", str(study), "--format", "quiet"]) == 4
    assert str(path) in capsys.readouterr().err.replace("\n", "")
    code = main(["verify", str(study), "--repair", "--format", "json"])
    out, err = capsys.readouterr()
    assert [str(path) in problem for problem in json.loads(out)["damaged"]] == [True]
    if kind == NOTES:
        assert code == 4
        assert "people's notes cannot be made again" in err
        assert path.is_file()
        return
    assert code == 0
    (command,) = json.loads(out)["next"]
    assert ("saepipe train" if kind == WEIGHTS else "saepipe evaluate") in command
    assert verify(study).damaged == []


def test_a_trained_run_is_checked_with_its_log_and_checkpoints(toy_cache: Path, tmp_path: Path) -> None:
    settings = {"cache": str(toy_cache), "hook": "blocks.1.hook_resid_post", "sae": {"name": "relu", "d_sae": 16}}
    settings |= {"steps": 4, "batch_size": 64, "log_every": 1, "checkpoint_every": 2, "device": "cpu"}
    [run] = train(TrainConfig.parse(settings), tmp_path / "runs")
    verified = verify(run)
    assert verified.damaged == []
    assert verified.checked["run"] == 1
    checkpoint = next((run / "checkpoints").iterdir())
    damage(checkpoint / "state.json")
    [problem] = verify(run).damaged
    assert problem.startswith(f"{checkpoint} cannot be used")
    assert verify(run, repair=True).cleared == [f"checkpoint {checkpoint}"]
    assert not checkpoint.exists()
    assert artifact.is_committed(run)
    damage(run / "metrics.jsonl")
    assert ["metrics.jsonl" in problem for problem in verify(run).damaged] == [True]
    (command,) = verify(run, repair=True).next
    assert command.startswith("the saepipe train command")
    train(TrainConfig.parse(settings), tmp_path / "runs")
    assert verify(run).damaged == []


def test_damage_to_a_cache_leads_to_its_harvest(toy_cache: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(toy_cache, tmp_path / "cache"))
    path = next((cache / "acts").rglob("c/0/0"))
    damage(path)
    assert [str(path) in problem for problem in verify(tmp_path).damaged] == [True]
    (command,) = verify(tmp_path, repair=True).next
    assert command == f"saepipe harvest --config {cache / 'log' / 'config.yaml'} --out {cache}"
    assert verify(tmp_path).unfinished == [str(cache)]


def test_the_work_beside_a_cache_belongs_to_the_cache(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache, path = study / "caches" / "tiny", files_of(study)[WORK]
    assert verify(cache).checked == {"cache": 1, "kept work": 1}
    assert main(["cache", "verify", str(cache), "--format", "quiet"]) == 0
    damage(path)
    assert main(["cache", "verify", str(cache), "--format", "quiet"]) == 4
    assert str(path) in capsys.readouterr().err.replace("\n", "")
    assert main(["cache", "verify", str(cache), "--repair", "--format", "quiet"]) == 0
    assert main(["cache", "verify", str(cache), "--format", "quiet"]) == 0


def test_a_single_file_and_a_single_artifact(study: Path) -> None:
    files = files_of(study)
    assert verify(files[RESULT]).checked == {"result": 1}
    assert verify(files[NOTES]).checked == {"notes": 1}
    assert verify(files[STORE].parent).checked == {"feature store": 1}


def test_what_lost_all_of_its_files_is_still_recognised(study: Path) -> None:
    folder = files_of(study)[WORK].parent
    for name in ("tensors.safetensors", "info.json"):
        (folder / name).unlink()
    assert len(verify(study).damaged) == 2


def test_unfinished_work_and_results_without_a_digest_are_listed(study: Path) -> None:
    files = files_of(study)
    (files[WORK].parent / "COMMITTED").unlink()
    result = json.loads(files[RESULT].read_text())
    del result["saepipe"]["digest"]
    artifact.write_json(files[RESULT], result)
    verified = verify(study)
    assert verified.unfinished == [str(files[WORK].parent)]
    assert verified.without_digest == [str(files[RESULT])]
    assert verified.damaged == []


@pytest.mark.parametrize(("kind", "part"), [(STORE, ""), (RESULT, "core")])
def test_what_another_process_writes_is_not_repaired(study: Path, kind: str, part: str) -> None:
    path = files_of(study)[kind]
    damage(path)
    with artifact.writer_lock(path.parent, part=part), pytest.raises(LockedError):
        verify(study, repair=True)
    assert path.is_file()


def test_a_folder_without_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds nothing that saepipe made"):
        verify(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        verify(tmp_path / "nowhere")


def test_repair_removes_only_files_of_known_names(study: Path) -> None:
    """A manifest that names a file elsewhere leads to no removal there."""
    folder, outside = files_of(study)[STORE].parent, study / "precious.txt"
    outside.write_text("kept")
    (header,) = artifact.read_manifest(folder)
    header["files"]["../../../../precious.txt"] = {"bytes": 1, "xxh3": "0" * 16}
    artifact.rewrite_manifest(folder, [header])
    artifact.commit(folder)
    verify(study, repair=True)
    assert outside.read_text() == "kept"
