"""Caches and runs made by commit 24f008c are still opened, verified, resumed, evaluated and compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import saepipe as sp
from saepipe.data.folders.artifact import damaged_files, open_committed
from saepipe.data.terminal.progress import Silent

pytestmark = pytest.mark.quick

MADE = Path(__file__).parent / "fixtures" / "made_at_24f008c"
FINGERPRINT = "51bd8ab477987109bdb730278733f0cbd2abf647d8c41bf4acd75f85e7cc8516"
RUNS = [f"runs/{variant}/seed-{seed}" for variant in ("baseline", "tanh") for seed in range(3)]
CORE = {"metrics": [{"name": "core"}], "features": None, "device": "cpu"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what was made then; its runs name their cache by the relative path `cache`."""
    shutil.copytree(MADE, tmp_path / "made")
    monkeypatch.chdir(tmp_path / "made")
    return tmp_path / "made"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and "log" not in path.parts}


def test_the_cache_opens_and_is_whole(here: Path) -> None:
    cache = sp.open_cache("cache")
    assert cache.fingerprint == FINGERPRINT
    assert (cache.num_tokens, cache.d_in, cache.hooks) == (768, 128, ("blocks.2.hook_resid_post",))
    assert not list(damaged_files(here / "cache", open_committed(here / "cache", "cache")[1]))
    assert torch.isfinite(cache.acts("blocks.2.hook_resid_post")[:].float()).all()


@pytest.mark.parametrize("name", RUNS)
def test_a_run_opens_and_is_whole(here: Path, name: str) -> None:
    run = sp.open_run(name)
    assert run.cache_fingerprint == FINGERPRINT
    assert not list(damaged_files(here / name, open_committed(here / name, "run")[1]))
    x = sp.open_cache("cache").acts(run.hook)[:5].float()
    assert sp.load(name).encode(x).shape == (5, 16)


def test_finished_work_is_left_alone(here: Path) -> None:
    before = contents(here / "runs")
    config = json.loads((here / "half.json").read_text())
    config["variants"] = [{"name": "baseline"}, {"name": "tanh", "penalties": [{"name": "tanh", "weight": 0.3}]}]
    runs = sp.train(config | {"seeds": [0, 1, 2]}, "runs", progress=Silent())
    assert sorted(map(str, runs)) == RUNS
    sp.evaluate(runs, CORE, progress=(told := Silent()))
    (sentence,) = told.said
    assert sentence.startswith("up to date")
    assert sentence.endswith(f" and {len(RUNS) - 1} more")
    assert contents(here / "runs") == before


def test_a_half_made_run_goes_on_from_its_checkpoint(here: Path) -> None:
    config = json.loads((here / "half.json").read_text())
    (run,) = sp.train(config, "half", resume="must", progress=Silent())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 20, 40, 60]
    ours, theirs = load_file(run / "sae" / "sae_weights.safetensors"), load_file("resumed.safetensors")
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)  # another machine's sums may round otherwise


def test_the_comparison_reads_as_before(here: Path) -> None:
    table = json.loads(sp.compare(RUNS, RUNS[0]).to_json())
    (unchecked,) = (note for note in table["notes"] if "without a digest" in note)
    table["notes"].remove(unchecked)
    assert [verdict.pop("controls") for verdict in table["verdicts"]] == [[]]  # earlier versions had none
    assert table == json.loads((here / "table.json").read_text())


def test_the_evaluation_gives_the_same_figures(here: Path) -> None:
    (path,) = sp.evaluate(RUNS[:1], CORE, out="elsewhere", progress=Silent())
    ours, theirs = (json.loads(Path(p).read_text()) for p in (path, here / RUNS[0] / "eval" / "core.json"))
    assert ours["saepipe"]["request"] == theirs["saepipe"]["request"]
    for category, figures in theirs["eval_result_metrics"].items():
        for key, figure in figures.items():
            assert ours["eval_result_metrics"][category][key] == pytest.approx(figure, rel=1e-3, abs=1e-4), key
