"""Evaluation from run folders to JSON files: sharing, reuse and refusals."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch

from saepipe.cli import main
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.compare.table import compare
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.features.config import Features
from saepipe.evaluate.features.store import FeatureStore
from saepipe.evaluate.model import testbeds as stage
from saepipe.evaluate.model.kept_work import KeptWork
from saepipe.evaluate.model.language_model import load_model_of
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.plan import plan
from saepipe.evaluate.run import evaluate
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.rundir.load import load

CONFIG = EvaluateConfig.parse({"device": "cpu", "features": None, "metrics": [{"name": "core"}]})
FEATURES = EvaluateConfig.parse({"device": "cpu", "metrics": [{"name": "core", "num_contexts": 2}]})
FEW = EvaluateConfig.parse({"device": "cpu", "features": None, "metrics": [{"name": "core", "num_contexts": 2}]})
LOWER, UPPER = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"


@pytest.fixture(scope="module")
def trained(toy_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Returns two runs with different L1 weights at one hook, and one run at another hook."""
    settings = {
        "cache": str(toy_cache),
        "device": "cpu",
        "sae": {"name": "relu", "d_sae": 96},
        "penalties": [{"name": "l1", "weight": 0.5}],
        "steps": 60,
        "batch_size": 256,
        "optimizer": {"lr": 3e-3},
    }
    folder = tmp_path_factory.mktemp("runs")
    weights = {"variants": {"grid": {"penalties.0.weight": [0.5, 4.0]}}}
    runs = train(TrainConfig.parse(settings | weights | {"hook": LOWER}), folder / "lower")
    return [*runs, *train(TrainConfig.parse(settings | {"hook": UPPER}), folder / "upper")]


@pytest.fixture
def runs(trained: list[Path], tmp_path: Path) -> list[Path]:
    """Returns copies of the runs, without results."""
    return [Path(shutil.copytree(run, tmp_path / str(number))) for number, run in enumerate(trained)]


def test_runs_of_several_hooks_share_one_model(
    runs: list[Path], toy_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(*args: object) -> object:
        loaded.append("once")
        return load_model_of(*args)

    monkeypatch.setattr(stage, "load_model_of", load)
    paths = evaluate(runs, CONFIG)
    assert paths == [run / "eval" / "core.json" for run in runs]
    assert loaded == ["once"]
    results = [json.loads(path.read_text()) for path in paths]
    assert [result["saepipe"]["hook"] for result in results] == [LOWER, LOWER, UPPER]
    assert len({result["eval_id"] for result in results}) == 1
    cache = Cache.open(toy_cache)
    for result in results:
        assert result["saepipe"]["fingerprints"]["cache"] == cache.fingerprint
        assert result["saepipe"]["counts"]["tokens"] == cache.heldout.keep.sum()
        assert result["saepipe"]["undefined"] == {}
        assert abs(result["saepipe"]["metrics"]["resume_gap"]) < 0.01
    weak, strong = (result["eval_result_metrics"] for result in results[:2])
    assert weak["sparsity"]["l0"] > strong["sparsity"]["l0"]
    assert weak["reconstruction_quality"]["explained_variance"] > strong["reconstruction_quality"]["explained_variance"]


def test_a_study_stands_for_its_runs(trained: list[Path], tmp_path: Path) -> None:
    study, settings = (
        trained[0].parents[1],
        EvaluateConfig.parse(CONFIG.to_dict() | {"baseline": str(trained[0].parent)}),
    )
    planned = plan(str(study), settings, out=tmp_path)
    assert planned == plan(trained[:2], settings, out=tmp_path)
    assert len(planned["measure"]) == 2


def test_a_result_is_reused_until_something_changes(runs: list[Path]) -> None:
    [path] = evaluate(runs[:1], CONFIG)
    first, progress = path.read_bytes(), Silent()
    evaluate(runs[:1], CONFIG, progress=progress)
    assert path.read_bytes() == first
    assert any("up to date" in said for said in progress.said)
    fewer = EvaluateConfig.parse({"device": "cpu", "features": None, "metrics": [{"name": "core", "num_contexts": 5}]})
    assert plan(runs[:1], fewer)["measure"] == [str(path)]
    evaluate(runs[:1], fewer)
    assert json.loads(path.read_text())["saepipe"]["counts"]["contexts"] == 5


def test_a_damaged_result_is_measured_again(runs: list[Path]) -> None:
    [path] = evaluate(runs[:1], FEW)
    figures = json.loads(path.read_text())["eval_result_metrics"]
    path.write_text(path.read_text().replace('"explained_variance": 0.', '"explained_variance": 0.1', 1))
    with pytest.raises(CorruptDataError, match=f"{path} was changed after it was written"):
        compare(runs[:1])
    assert plan(runs[:1], FEW)["measure"] == [str(path)]
    progress = Silent()
    evaluate(runs[:1], FEW, progress=progress)
    assert json.loads(path.read_text())["eval_result_metrics"] == figures
    assert [said for said in progress.said if "made again" in said and str(path) in said]
    compare(runs[:1])


def test_a_store_with_a_damaged_manifest_is_built_again(runs: list[Path]) -> None:
    evaluate(runs[:1], FEATURES)
    sealed = (runs[0] / "features" / "COMMITTED").read_bytes()
    (runs[0] / "features" / "manifest.jsonl").write_text("{}\n")
    progress = Silent()
    evaluate(runs[:1], FEATURES, progress=progress)
    assert (runs[0] / "features" / "COMMITTED").read_bytes() == sealed
    assert [said for said in progress.said if "was changed after" in said and "made again" in said]


def test_a_second_evaluation_of_a_run_waits_and_reuses(runs: list[Path]) -> None:
    """The first one measures only once the second, in another thread, has said that it waits."""
    begun, waited = Event(), Event()

    class First(Silent):
        def start(self, *args: Any, **keys: Any) -> None:
            begun.set()
            assert waited.wait(60)

    class Second(Silent):
        def say(self, message: str) -> None:
            super().say(message)
            waited.set()

    second = Second()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(evaluate, runs[:2], FEW, progress=First())
        assert begun.wait(60)
        paths = evaluate([runs[1], runs[0]], FEW, progress=second)  # in another order, which cannot block both
        assert sorted(first.result()) == sorted(paths)
    assert second.said[0].startswith("waiting: another process is writing")
    assert sum("up to date" in said and said.endswith(" and 1 more") for said in second.said) == 1
    assert len({json.loads(path.read_text())["eval_id"] for path in paths}) == 1


def test_shares_make_every_result_and_store_once(runs: list[Path]) -> None:
    config = EvaluateConfig.parse(
        {**FEATURES.to_dict(), "metrics": [{"name": "core", "num_contexts": 2}, {"name": "geometry"}]}
    )
    shares = [evaluate(runs[:2], config, share=f"{number}/4") for number in range(1, 5)]
    made = [[str(path.relative_to(runs[0].parents[1])) for path in paths] for paths in shares]
    first, second = (str(run.relative_to(runs[0].parents[1])) for run in runs[:2])
    assert made == [[f"{run}/eval/{name}.json"] for name in ("core", "geometry") for run in (first, second)]
    assert all(artifact.is_committed(run / "features") for run in runs[:2])
    assert plan(runs[:2], config)["measure"] == plan(runs[:2], config)["features_to_gather"] == []


def test_a_share_prints_no_table(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "few.yaml").write_text(FEW.to_yaml())
    command = ["evaluate", *map(str, runs[:2]), "-c", str(tmp_path / "few.yaml")]
    assert main([*command, "--share", "2/2"]) == 0
    printed = capsys.readouterr().out
    assert f"1 files in 1 folders such as {runs[1]}/eval" in printed
    assert "explained variance" not in printed
    assert not (runs[0] / "eval" / "core.json").exists()
    assert main(command) == 0
    assert "explained variance" in capsys.readouterr().out
    assert main([*command, "--share", "3/2"]) == 2
    assert "'3/2' is no share of the work" in capsys.readouterr().err


def test_two_metrics_of_a_run_are_measured_at_once(runs: list[Path]) -> None:
    """The first one measures only once the second call, which takes the other metric, has ended."""
    config = EvaluateConfig.parse(
        {**FEW.to_dict(), "metrics": [{"name": "core", "num_contexts": 2}, {"name": "geometry"}]}
    )
    begun, ended = Event(), Event()

    class First(Silent):
        def start(self, *args: Any, **keys: Any) -> None:
            begun.set()
            assert ended.wait(60)

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(evaluate, runs[:1], config, share="1/2", progress=First())
        assert begun.wait(60)
        second = Silent()
        (geometry,) = evaluate(runs[:1], config, share="2/2", progress=second)
        ended.set()
        (core,) = first.result()
    assert (core.name, geometry.name) == ("core.json", "geometry.json")
    assert not any(said.startswith("waiting") for said in second.said)


def test_a_moved_run_keeps_its_results(runs: list[Path], tmp_path: Path) -> None:
    evaluate(runs[:1], CONFIG)
    moved = Path(shutil.move(runs[0], tmp_path / "elsewhere"))
    assert plan([moved], CONFIG)["reuse"] == [str(moved / "eval" / "core.json")]


def test_results_can_go_elsewhere(runs: list[Path], tmp_path: Path) -> None:
    paths = evaluate(runs[:2], CONFIG, out=tmp_path / "out")
    assert len({path.parent for path in paths}) == 2
    assert all(path.is_relative_to(tmp_path / "out") and path.is_file() for path in paths)
    assert not (runs[0] / "eval").exists()


def test_another_cache_is_refused(runs: list[Path], tiny_cache: Path) -> None:
    with pytest.raises(ConfigError, match="was trained from cache"):
        evaluate(runs[:1], EvaluateConfig.parse({"device": "cpu", "cache": str(tiny_cache)}))
    with pytest.raises(ConfigError, match="is not at"):
        evaluate(runs[:1], EvaluateConfig.parse({"device": "cpu", "cache": "nowhere"}))


def test_a_hook_that_the_cache_does_not_have_is_refused(runs: list[Path]) -> None:
    header, *rest = artifact.read_manifest(runs[0])
    artifact.rewrite_manifest(runs[0], [header | {"hook": "blocks.0.hook_resid_post"}, *rest])
    artifact.commit(runs[0])
    with pytest.raises(ConfigError, match=r"trained at blocks\.0\.hook_resid_post"):
        evaluate(runs[:1], CONFIG)


def test_another_model_is_refused(toy_cache: Path) -> None:
    cache = Cache.open(toy_cache)
    cache.attributes["model"]["weights"] = "0" * 32
    with pytest.raises(ConfigError, match="is not the model that made"):
        load_model_of(cache, CONFIG)
    bfloat16 = load_model_of(cache, EvaluateConfig.parse({"device": "cpu", "dtype": "bfloat16"}))
    assert bfloat16.model.dtype is torch.bfloat16


def test_no_runs_and_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="no run"):
        evaluate([], CONFIG)
    with pytest.raises(ConfigError, match="did you mean 'core'"):
        EvaluateConfig.parse({"metrics": [{"name": "cor"}]})
    with pytest.raises(ConfigError, match="listed twice"):
        EvaluateConfig.parse({"metrics": [{"name": "core"}, {"name": "core", "num_contexts": 3}]})


def test_features_are_gathered_beside_the_metrics(runs: list[Path]) -> None:
    """Stores of two hooks, each with its own pass, are reused until the settings change or one is damaged."""
    folders = [str(run / "features") for run in runs]
    assert plan(runs, FEATURES)["features_to_gather"] == folders
    evaluate(runs, FEATURES)
    stores = [FeatureStore.open(run) for run in runs]
    assert [store.info.hook for store in stores] == [LOWER, LOWER, UPPER]
    assert {store.info.num_tokens for store in stores} == {12_000}
    for run, store in zip(runs, stores, strict=True):
        assert load(run).d_sae == len(store.decoder) == store.info.d_sae
        strongest = store.latent(int(np.nanargmax(store.columns["max_act"])))
        assert strongest.max_act == pytest.approx(strongest.examples[0].acts[strongest.examples[0].peak])
        assert strongest.positive_logits is not None

    before, progress = [(run / "features" / "COMMITTED").stat().st_mtime_ns for run in runs], Silent()
    evaluate(runs, FEATURES, progress=progress)
    assert plan(runs, FEATURES)["features_to_reuse"] == folders
    assert [(run / "features" / "COMMITTED").stat().st_mtime_ns for run in runs] == before
    (sentence,) = progress.said
    assert sentence.startswith("up to date")
    assert sentence.endswith(" and 5 more")  # a result and a store of each run

    other = FEATURES.model_copy(update={"features": Features(num_top=2, num_logits=0)})
    (runs[1] / "features" / "tokens.json").write_text("{}")
    assert plan(runs, FEATURES)["features_to_gather"] == folders[1:2]
    evaluate(runs[:2], FEATURES)
    evaluate(runs[:1], other)
    assert [FeatureStore.open(run).info.num_top for run in runs[:2]] == [2, 16]


def test_features_can_go_elsewhere(runs: list[Path], tmp_path: Path) -> None:
    [path] = evaluate(runs[:1], FEATURES, out=tmp_path / "out")
    store = FeatureStore.open(path.parent)
    assert store.folder == path.parent / "features"
    torch.testing.assert_close(torch.from_numpy(store.decoder.copy()), load(runs[0]).W_dec.detach())
    assert not (runs[0] / "features").exists()


def test_compare_reads_what_evaluate_wrote(runs: list[Path]) -> None:
    evaluate(runs[:2], CONFIG)
    table = compare(runs[:2], baseline=runs[0])
    assert table.columns[:2] == ("run", "penalties.0.weight")
    unmeasured = {table.columns[i] for row in table.rows for i, cell in enumerate(row) if str(cell) == "not measured"}
    assert unmeasured == {"full absorption"}  # a primary metric that this evaluation left out


@torch.no_grad()
def test_the_upper_layers_of_the_toy_match_its_full_forward(toy_cache: Path) -> None:
    """The two hooks are below different kinds of attention layer; contexts are longer than the sliding window."""
    cache = Cache.open(toy_cache)
    lm = load_model_of(cache, CONFIG)
    assert cache.heldout.contexts.shape[1] > lm.model.config.sliding_window
    ids = torch.from_numpy(cache.heldout.contexts[:4]).long()
    full = lm.model(input_ids=ids).logits
    for hook in (LOWER, UPPER):
        x = capture(lm.model, ids, [HookPoint.parse(hook)])[hook]
        testbed = Testbed(cache, hook, lambda: lm, KeptWork(toy_cache.parent / "artifacts", {}), 4, torch.device("cpu"))
        with testbed.upper_layers() as upper_layers:
            assert torch.equal(upper_layers(ids, x), full)
            stored = upper_layers(ids, cache.heldout.activations(hook, 0, 4))
        assert (stored - full).norm() / full.norm() < 0.01
        assert abs(testbed.upper_layers_gap()) < 0.01
