"""The command line: outputs, formats, exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import saepipe
from helpers.made_results import write_core, write_run
from helpers.made_stores import write_store
from helpers.random_runs import random_run
from helpers.repository import CONFIGS
from saepipe.cli import main
from saepipe.data import toy
from saepipe.harvest.config import HarvestConfig
from saepipe.train.config import TrainConfig

TRAIN = """
hook: blocks.2.hook_resid_post
sae: {name: relu, d_sae: 64}
penalties: [{name: l1, weight: 0.5}]
steps: 30
batch_size: 256
log_every: 10
variants: {grid: {penalties.0.weight: [0.5, 4.0]}}
"""


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Returns exit code, stdout and stderr of a command."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_pipeline(toy_config: HarvestConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harvest, train = tmp_path / "harvest.yaml", tmp_path / "train.yaml"
    harvest.write_text(toy_config.to_yaml())
    train.write_text("cache: somewhere\n" + TRAIN)
    cache, runs = tmp_path / "cache", tmp_path / "runs"

    code, out, _ = call(capsys, "harvest", "-c", harvest, "--out", cache, "--dry-run", "--format", "json")
    assert code == 0
    assert json.loads(out)["tokens"] == 12_000
    assert json.loads(out)["memory"]["host"] > 0
    assert not cache.exists()
    code, _, err = call(capsys, "harvest", "-c", harvest, "--out", cache, "--ranks", "2")
    assert (code, "--ranks 2 only plans, with --dry-run" in err) == (2, True)
    code, out, err = call(capsys, "harvest", "-c", harvest, "--out", cache, "--format", "json")
    assert code == 0
    assert json.loads(out)["num_tokens"] == 12_000
    assert '"task": "harvest train"' in err

    code, out, _ = call(capsys, "cache", "info", cache, "--format", "json")
    assert code == 0
    assert json.loads(out)["ratio"] > 1.1
    assert call(capsys, "cache", "verify", cache, "--format", "quiet") == (0, "", "")

    arguments = ["train", "-c", train, "--cache", cache, "--out", runs]
    code, out, _ = call(capsys, *arguments, "--dry-run", "--ranks", "2", "--format", "json")
    assert code == 0
    assert (json.loads(out)["ranks"], json.loads(out)["runs_of_a_rank"]) == (2, 1)
    assert [run["steps"] for run in json.loads(out)["runs"]] == [30, 30]
    code, out, _ = call(capsys, *arguments, "--format", "json")
    assert code == 0
    folders = json.loads(out)["runs"]
    assert len(folders) == 2

    assert "name=relu, d_sae=64, d_in=128, hook=blocks.2.hook_resid_post" in repr(saepipe.load(folders[0]))
    metrics = "metrics=[{name: core, num_contexts: 8}, {name: geometry}]"  # the demo, below, measures all four
    code, out, _ = call(capsys, "evaluate", *folders, "--set", metrics, "--format", "json")
    assert code == 0
    assert [Path(result).stem for result in json.loads(out)["results"]] == ["core", "geometry"] * 2
    code, out, _ = call(capsys, "compare", *folders, "--baseline", folders[0], "--format", "json")
    table = json.loads(out)
    assert code == 0
    assert table["columns"][:2] == ["run", "penalties.0.weight"]
    assert len(table["rows"]) == 2
    code, out, _ = call(capsys, "compare", *folders)
    assert code == 0
    assert "no verdict" in out


def test_the_demo_with_fewer_steps_and_variants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cuts = {
        "harvest.yaml": {"num_tokens: 300k": "num_tokens: 8k", "heldout_tokens: 24k": "heldout_tokens: 1k"},
        "train.yaml": {"steps: 1000": "steps: 12", "batch_size: 512": "batch_size: 128", "[0, 1, 2]": "[0, 1]"},
        "evaluate.yaml": {"{name: absorption}": "{name: absorption, max_words: 300}", "50k": "4k"},
    }
    for path in toy.CONFIGS.glob("*.yaml"):
        text = path.read_text()
        for old, new in cuts[path.name].items():
            assert old in text
            text = text.replace(old, new)
        (tmp_path / path.name).write_text(text)
    monkeypatch.setattr(toy, "CONFIGS", tmp_path)
    code, out, err = call(capsys, "demo", "--out", tmp_path / "demo")
    assert code == 0
    runs = tmp_path / "demo" / "runs"
    for word in ("mean of 2 seeds", "tanh against l1", "placebo against l1"):
        assert word in out
    assert "not measured" not in out
    results = sorted(path.stem for path in (runs / "placebo" / "seed-1" / "eval").glob("*.json"))
    assert results == ["absorption", "core", "geometry"]
    assert str(runs) in err.replace("\n", "")
    assert (tmp_path / "demo" / "report.html").is_file()
    assert [path.parent.parent.name for path in sorted(runs.glob("*/*/features"))] == ["l1", "placebo", "tanh"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_configs_are_valid(path: Path) -> None:
    kind = TrainConfig if "sae:" in path.read_text() else HarvestConfig
    assert kind.load(path).to_dict()


def test_user_errors_have_an_exit_code_and_a_hint(
    toy_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("num_tokens: 10\ncodek: none\n")
    code, out, err = call(capsys, "harvest", "-c", config)
    assert (code, out) == (2, "")
    assert f"{config}:2: unknown key 'codek'; did you mean 'codec'?" in err
    code, _, err = call(capsys, "harvest", "-c", config, "--format", "json")
    assert code == 2
    assert json.loads(err)["exit_code"] == 2
    assert call(capsys, "no-such-command")[0] == 2
    assert call(capsys, "train", "--resume", "perhaps")[0] == 2
    assert call(capsys, "cache", "info", tmp_path / "nowhere")[0] == 2
    assert call(capsys, "harvest", "--set", "model.device=tpu9", "--out", tmp_path / "c", "--format", "quiet")[0] in (
        2,
        3,
    )

    damaged = tmp_path / "cache"
    shutil.copytree(toy_cache, damaged)
    shard = next((damaged / "acts").rglob("c/0/0"))
    shard.write_bytes(b"x" * shard.stat().st_size)
    code, _, err = call(capsys, "cache", "verify", damaged)
    assert code == 4
    assert str(shard) in err.replace("\n", "")


def test_an_unexpected_exception_is_reported_as_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise AssertionError("lengths differ")

    monkeypatch.setattr("saepipe.evaluate.compare.table.compare", broken)
    code, _, err = call(capsys, "compare", "x")
    assert code == 1
    assert "a bug in saepipe: AssertionError: lengths differ" in err


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt(), 130), (MemoryError(), 5), (OSError(28, "full"), 5)])
def test_interrupts_and_machine_errors_have_their_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: BaseException, code: int
) -> None:
    def stop(*_: object) -> None:
        raise raised

    monkeypatch.setattr("saepipe.evaluate.compare.table.compare", stop)
    assert call(capsys, "compare", "x")[0] == code


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "doctor", "--format", "json")
    assert code == 0
    assert json.loads(out)["toy_runs"] == "yes"


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Returns two evaluated variants of one study."""
    weights = {"baseline": 1.0, "stronger": 2.0}
    return [
        write_core(write_run(tmp_path / name / "seed-0", penalties=[{"name": "l1", "weight": weight}]), l0=20 / weight)
        for name, weight in weights.items()
    ]


def test_report(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    code, out, _ = call(capsys, "report", *runs, "-o", page, "--baseline", runs[0], "--title", "A & B", "--format=json")
    assert code == 0
    assert json.loads(out) == {"report": str(page), "bytes": page.stat().st_size}
    assert "<h1>A &amp; B</h1>" in page.read_text()
    code, _, err = call(capsys, "report", *runs, "-o", tmp_path)
    assert code == 2
    assert "is a folder" in err


def test_browse_writes_files_and_needs_a_store(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_store(tmp_path / "stored" / "seed-0", 12)
    code, out, _ = call(capsys, "browse", run, "--static", tmp_path / "site", "--format", "json")
    assert code == 0
    assert Path(json.loads(out)["page"]) == tmp_path / "site" / "index.html"
    code, _, err = call(capsys, "browse", runs[0])
    assert code == 2
    assert "saepipe evaluate" in err


def test_export(tiny_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = random_run(tmp_path / "run", "jumprelu", tiny_cache)
    code, out, _ = call(capsys, "export", run, "--to", "saelens", "--out", tmp_path / "out", "--format", "json")
    assert code == 0
    assert [line.split()[0] for line in json.loads(out)["files"]] == ["cfg.json", "sae_weights.safetensors"]
    code, _, err = call(capsys, "export", run, "--to", "sparsify", "--out", tmp_path / "other")
    assert code == 2
    assert "topk" in err
    assert not (tmp_path / "other").exists()


def test_push_lists_its_files_and_pull_checks_the_address(
    tiny_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = random_run(tmp_path / "topk" / "seed-0", "topk", tiny_cache)
    code, out, _ = call(capsys, "push", run, "--to", "hf://me/saes", "--dry-run", "--format", "json")
    assert code == 0
    upload = json.loads(out)
    assert upload["repository"] == "me/saes"
    assert "topk/seed-0/sae/sae_weights.safetensors" in upload["files"]
    code, out, _ = call(capsys, "push", run, "--to", "hf://me/saes", "--dry-run", "--licence", "mit")
    assert code == 0
    assert "license: mit" in out
    assert "SAE.from_pretrained(release=" in out
    code, _, err = call(capsys, "pull", "me/saes", "--out", tmp_path / "pulled")
    assert code == 2
    assert "hf://org/name" in err


def test_config_schema(capsys: pytest.CaptureFixture[str]) -> None:
    for stage, key in {"harvest": "hooks", "train": "penalties", "evaluate": "metrics", "validate": "worlds"}.items():
        code, out, _ = call(capsys, "config", "schema", stage)
        assert code == 0
        assert key in json.loads(out)["properties"]


def test_repair_does_not_change_an_undamaged_cache(tiny_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "cache", "verify", tiny_cache, "--repair", "--format", "json")
    assert code == 0
    assert json.loads(out)["damaged"] == []
    assert call(capsys, "cache", "verify", tiny_cache)[0] == 0
