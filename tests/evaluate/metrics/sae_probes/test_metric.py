"""sae_probes from run folders to files: warm and cold, its three settings, chance, and invalid settings."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from helpers.result_schemas import check
from saepipe.data import toy
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.heldout_split import heldout_score
from saepipe.data.errors import ConfigError
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.metrics.sae_probes.binary_tasks import Task
from saepipe.evaluate.metrics.sae_probes.metric import SaeProbes
from saepipe.evaluate.metrics.sae_probes.splits import splits
from saepipe.evaluate.model.language_model import load_model_of
from saepipe.evaluate.model.testbed import Passes
from saepipe.evaluate.plan import plan
from saepipe.evaluate.run import evaluate
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.rundir.load import load

HOOK = "blocks.1.hook_resid_post"
NUM_ROWS = 240


@pytest.fixture(scope="module")
def trained(toy_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two small SAEs of the toy model."""
    settings = {
        "cache": str(toy_cache),
        "hook": HOOK,
        "device": "cpu",
        "sae": {"name": "relu", "d_sae": 64},
        "penalties": [{"name": "l1", "weight": 0.5}],
        "steps": 60,
        "batch_size": 256,
        "optimizer": {"lr": 3e-3},
        "variants": {"grid": {"penalties.0.weight": [0.5, 4.0]}},
    }
    return train(TrainConfig.parse(settings), tmp_path_factory.mktemp("runs"))


@pytest.fixture
def runs(trained: list[Path], tmp_path: Path) -> list[Path]:
    """Copies without results."""
    return [Path(shutil.copytree(run, tmp_path / str(number))) for number, run in enumerate(trained)]


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str]]:
    """Held-out biographies up to their pronoun with their genders, equally many of both."""
    documents = [d for d in toy.documents(99, 4000, ["biography"]) if heldout_score(d.text) < toy.HELDOUT_SHARE]
    by_gender: dict[str, list[tuple[str, str]]] = {}
    for document in documents:
        by_gender.setdefault(document.labels["gender"], []).append((document.text, document.labels["gender"]))
    pairs = zip(*(texts[: NUM_ROWS // 2] for texts in by_gender.values()), strict=True)
    return [row for pair in pairs for row in pair]


@pytest.fixture
def file(rows: list[tuple[str, str]], tmp_path: Path) -> Path:
    return write(tmp_path / "genders.csv", rows)


def write(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def config(tmp_path: Path, *files: Path, mode: str = "fixed", **metric: Any) -> EvaluateConfig:
    datasets = [{"name": path.stem, "source": str(path)} for path in files]
    metrics = [{"name": "sae_probes", "datasets": datasets, "context_size": 64, "k_values": [1, 4]} | metric]
    settings = {"metrics": metrics, "features": None, "device": "cpu", "artifacts": str(tmp_path / "work")}
    return EvaluateConfig.parse(settings | {"mode": mode})


def results(runs: Sequence[Path]) -> list[dict[str, Any]]:
    return [json.loads((run / "eval" / "sae_probes.json").read_text()) for run in runs]


def figures(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for group in result["eval_result_metrics"].values() for key, value in group.items()}


def test_mode_reference_is_plain_scikit_learn_on_raw_latents(
    runs: list[Path], rows: list[tuple[str, str]], file: Path, toy_cache: Path, tmp_path: Path
) -> None:
    evaluate(runs[:1], config(tmp_path, file, mode="reference", penalty="l2"))
    (result,) = results(runs[:1])
    lm, hook = load_model_of(Cache.open(toy_cache), EvaluateConfig(device="cpu")), HookPoint.parse(HOOK)
    last = []
    for text, _ in rows:
        ids = torch.tensor([[lm.bos_id, *lm.tokenizer(text, add_special_tokens=False)["input_ids"][-63:]]])
        last.append(capture(lm.model, ids, [hook])[HOOK][0, -1])
    acts = load(runs[0]).encode(torch.stack(last)).detach().numpy()
    y = np.array([label for _, label in rows]) == sorted({label for _, label in rows})[1]
    (split,) = splits(Task("genders", "", np.arange(NUM_ROWS), y), "normal", 42)
    (latent,) = result["saepipe"]["tasks"]["genders"]["latents"]["normal"][:1]
    x = acts[:, [latent]]
    best = LogisticRegression(C=1e5, max_iter=1000).fit(x[split.train], y[split.train])  # of one latent, all AUCs agree
    auc = roc_auc_score(y[split.test], best.decision_function(x[split.test]))
    values = figures(result)
    assert values["sae_probes_top_1_test_auc"] == pytest.approx(auc, abs=1e-3)
    assert values["sae_probes_top_1_test_acc"] == pytest.approx(best.score(x[split.test], y[split.test]), abs=0.02)
    assert values["sae_probes_llm_test_auc"] > 0.7


def test_a_second_call_needs_no_model_and_gives_the_same_bits(
    runs: list[Path], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path, file, penalty="l2")
    passes = Passes()
    assert len(plan(runs, settings)["model_work_to_do"]) == 3
    evaluate(runs, settings, passes=passes)
    cold = results(runs)
    assert passes.lower == cold[0]["saepipe"]["counts"]["texts"] == NUM_ROWS
    monkeypatch.setattr("saepipe.evaluate.model.testbeds.load_model_of", None)
    for run in runs:
        (run / "eval" / "sae_probes.json").unlink()
    assert plan(runs, settings)["model_work_to_do"] == []
    evaluate(runs, settings, passes=passes)
    assert [figures(result) for result in results(runs)] == [figures(result) for result in cold]
    assert figures(cold[0])["sae_probes_llm_test_auc"] == figures(cold[1])["sae_probes_llm_test_auc"]
    assert figures(cold[0])["sae_probes_top_4_test_auc"] != figures(cold[1])["sae_probes_top_4_test_auc"]


def test_a_result_over_two_datasets(runs: list[Path], rows: list[tuple[str, str]], file: Path, tmp_path: Path) -> None:
    """Figures are means over tasks with Student's interval; a number of latents above d_sae has a reason."""
    third = write(tmp_path / "third.csv", [(text, "yes" if "she" in text else "no") for text, _ in rows])
    evaluate(runs[:1], config(tmp_path, file, third, k_values=[1, 4, 65], binarize=True))
    (result,) = results(runs[:1])
    check(result)
    values, ours = figures(result), result["saepipe"]
    by_task = [entry["sae_probes_top_4_test_auc"] for entry in result["eval_result_details"]]
    assert values["sae_probes_top_4_test_auc"] == pytest.approx(np.mean(by_task))
    half = 12.7062 * abs(by_task[0] - by_task[1]) / 2  # Student's t of one degree of freedom
    low, high = ours["intervals"]["sae_probes_top_4_test_auc"]
    assert low == pytest.approx(max(0, np.mean(by_task) - half), abs=1e-4)
    assert high == pytest.approx(min(1, np.mean(by_task) + half), abs=1e-4)
    assert ours["undefined"]["sae_probes_top_65_test_auc"] == "there are only 64 latents"
    assert ours["tasks"]["genders"]["num_train"] == {"normal": 140}
    assert ours["counts"]["probes"] == 4
    evaluate(runs[:1], config(tmp_path, file, third, k_values=[65]))
    (result,) = results(runs[:1])
    check(result)
    assert result["saepipe"]["findings"] == []
    with pytest.raises(ConfigError, match="a dataset is listed twice: genders"):
        evaluate(runs[:1], config(tmp_path, file, file))


def test_the_toys_datasets_are_the_default() -> None:
    def names(metric: SaeProbes, model: str) -> list[str]:
        attributes = {"config": {"model": {"model": model}, "dataset": {"source": "org/text"}}}
        testbed: Any = SimpleNamespace(cache=SimpleNamespace(attributes=attributes), mode="fixed")
        return [settings.config.name for settings in metric.dataset_settings(testbed)]

    assert names(SaeProbes(), "toy") == ["toy_gender", "toy_sentiment"]
    assert names(SaeProbes(datasets=("fancyzhx/ag_news",)), "toy") == ["fancyzhx/ag_news"]


def test_a_repeated_text_counts_once_but_for_mode_reference(
    runs: list[Path], rows: list[tuple[str, str]], tmp_path: Path
) -> None:
    repeated = write(tmp_path / "repeated.csv", [*rows, *rows[:60]])
    for mode, num_texts in (("fixed", NUM_ROWS), ("reference", NUM_ROWS + 60)):
        evaluate(runs[:1], config(tmp_path, repeated, mode=mode, penalty="l2", k_values=[1]))
        (result,) = results(runs[:1])
        assert result["saepipe"]["counts"]["texts"] == num_texts
        assert result["saepipe"]["tasks"]["repeated"]["num_train"] == {"normal": num_texts - 100}


def test_scarcity_averages_over_training_sizes(runs: list[Path], rows: list[tuple[str, str]], tmp_path: Path) -> None:
    file = write(tmp_path / "genders.csv", rows[:106])
    evaluate(runs[:1], config(tmp_path, file, setting="scarcity", penalty="l2", k_values=[2]))
    (result,) = results(runs[:1])
    check(result)
    sizes = result["saepipe"]["tasks"]["genders"]["num_train"]
    assert list(sizes.values()) == [2, 3, 4, 5]
    by_size = [entry["sae_probes_top_2_test_acc"] for entry in result["eval_result_details"]]
    assert len(by_size) == 4
    assert figures(result)["sae_probes_top_2_test_acc"] == pytest.approx(np.mean(by_size))
    assert len(set(by_size)) > 1


def test_labels_of_other_texts_are_at_chance(runs: list[Path], rows: list[tuple[str, str]], tmp_path: Path) -> None:
    labels = [label for _, label in rows]
    random.Random(0).shuffle(labels)
    shuffled = write(tmp_path / "shuffled.csv", [(text, label) for (text, _), label in zip(rows, labels, strict=True)])
    evaluate(runs[:1], config(tmp_path, shuffled, penalty="l2"))
    (result,) = results(runs[:1])
    (finding,) = result["saepipe"]["findings"]
    assert finding["rule"] == "H10"
    assert "nor does one on the model's own activations: check labels and texts" in finding["message"]
    assert "on shuffled no probe on the model's own activations" in result["saepipe"]["warnings"][0]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ({"datasets": ["toy_gendr"]}, "no dataset called 'toy_gendr'; known by name: sae-probes, sae-probes/NAME"),
        ({"datasets": [{"name": "a", "source": "a.csv", "test": "b.csv"}]}, "splits the rows itself"),
        ({"setting": "imbalance", "binarize": True}, "in setting normal alone, and this is imbalance"),
        ({"max_rows": 50}, "must be at least 102"),
    ],
)
def test_invalid_settings(metric: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig.parse({"metrics": [{"name": "sae_probes", **metric}]})
