"""The commands that show and share, as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.made_results import write_core, write_run
from helpers.made_stores import write_store
from helpers.random_runs import random_run
from saepipe.cli import main


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two evaluated variants of one study."""
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


def test_browse_as_files_and_without_a_store(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_store(stored := tmp_path / "stored" / "seed-0", 12)
    code, out, _ = call(capsys, "browse", stored, "--static", tmp_path / "site", "--format", "json")
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


def test_push_says_what_it_would_send_and_pull_what_is_no_address(
    tiny_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = random_run(tmp_path / "topk" / "seed-0", "topk", tiny_cache)
    code, out, _ = call(capsys, "push", run, "--to", "hf://me/saes", "--dry-run", "--format", "json")
    assert code == 0
    sent = json.loads(out)
    assert sent["repository"] == "me/saes"
    assert "topk/seed-0/sae/sae_weights.safetensors" in sent["files"]
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


def test_repair_leaves_a_whole_cache_alone(tiny_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "cache", "verify", tiny_cache, "--repair", "--format", "json")
    assert code == 0
    assert json.loads(out)["damaged"] == []
    assert call(capsys, "cache", "verify", tiny_cache)[0] == 0
