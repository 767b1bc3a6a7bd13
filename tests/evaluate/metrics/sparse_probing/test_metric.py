"""sparse_probing from run folders to files: cold and warm, on the toy's texts, on news, and invalid settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.repository import EXAMPLES
from helpers.result_schemas import check
from saepipe.data import toy
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.heldout_split import heldout_score
from saepipe.data.errors import ConfigError
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.metrics.sparse_probing.metric import SparseProbing
from saepipe.evaluate.metrics.sparse_probing.probe_keys import KS
from saepipe.evaluate.model.testbed import Passes
from saepipe.evaluate.plan import plan
from saepipe.evaluate.run import evaluate
from saepipe.evaluate.sae.subject import Subject
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.sae.sparse_acts import SparseActs

EXAMPLE = EXAMPLES / "ag_news.yaml"
HOOK = "blocks.1.hook_resid_post"


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


@pytest.fixture(scope="module")
def biographies(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Held-out biographies with their labels, in a file."""
    documents = [d for d in toy.documents(99, 7000, ["biography"]) if heldout_score(d.text) < toy.HELDOUT_SHARE]
    path = tmp_path_factory.mktemp("text") / "biographies.jsonl"
    path.write_text("\n".join(json.dumps({"text": d.text, **d.labels}) for d in documents))
    return str(path)


@pytest.fixture
def runs(trained: list[Path], tmp_path: Path) -> list[Path]:
    """Copies without results."""
    return [Path(shutil.copytree(run, tmp_path / str(number))) for number, run in enumerate(trained)]


def settings(biographies: str, tmp_path: Path, **more: Any) -> EvaluateConfig:
    file = {"source": biographies, "test_share": 0.4}
    datasets = [
        {"name": "gender", "label": "gender", **file},
        {"name": "job", "label": "profession", "classes": ["nurse", "chef", "lawyer"], **file},
    ]
    sizes = {"train_size": 60, "test_size": 40, "context_size": 48}
    metric = {"name": "sparse_probing", "datasets": datasets, **sizes}
    plain = {"metrics": [metric], "features": None, "device": "cpu", "artifacts": str(tmp_path / "work")}
    return EvaluateConfig.parse(plain | more)


def results(runs: Sequence[Path]) -> list[dict[str, Any]]:
    return [json.loads((run / "eval" / "sparse_probing.json").read_text()) for run in runs]


def values(result: dict[str, Any]) -> list[Any]:
    return [
        result["eval_result_metrics"],
        result["eval_result_details"],
        result["eval_result_unstructured"],
        result["saepipe"]["intervals"],
        result["saepipe"]["datasets"],
    ]


def delete_results(runs: Sequence[Path]) -> None:
    for run in runs:
        (run / "eval" / "sparse_probing.json").unlink()


@pytest.mark.parametrize("mode", ["fixed", "reference"])
def test_a_second_call_needs_no_model_and_gives_the_same_bits(
    runs: list[Path], biographies: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    config = settings(biographies, tmp_path, mode=mode)
    passes = Passes()
    assert len(plan(runs, config)["model_work_to_do"]) == 8
    evaluate(runs, config, passes=passes)
    cold = results(runs)
    assert passes.lower == cold[0]["saepipe"]["counts"]["texts"]
    assert passes.full == passes.upper == 0
    monkeypatch.setattr("saepipe.evaluate.model.testbeds.load_model_of", None)
    delete_results(runs)
    monkeypatch.setattr("saepipe.evaluate.metrics.sparse_probing.dataset.sample_tasks", None)  # sampled once
    planned = plan(runs, config)
    assert planned["model_work_to_do"] == []
    assert len(planned["model_work_to_reuse"]) == 8
    evaluate(runs, config, passes=passes)
    assert passes.lower == cold[0]["saepipe"]["counts"]["texts"]
    assert [values(result) for result in results(runs)] == [values(result) for result in cold]
    delete_results(runs)
    evaluate(runs[1:], config)
    assert values(results(runs[1:])[0]) == values(cold[1])


def test_a_result_has_saebenchs_values_and_our_details(runs: list[Path], biographies: str, tmp_path: Path) -> None:
    evaluate(runs, settings(biographies, tmp_path))
    first, second = results(runs)
    for result in (first, second):
        check(result)
        assert list(result["eval_result_metrics"]) == ["llm", "sae"]
        assert [entry["dataset_name"] for entry in result["eval_result_details"]] == ["gender_results", "job_results"]
        assert result["saepipe"]["undefined"]["sae_top_100_test_accuracy"] == "there are only 64 columns"
        assert result["saepipe"]["findings"] == []
    assert first["eval_result_metrics"]["llm"] == second["eval_result_metrics"]["llm"]
    assert first["eval_result_metrics"]["sae"] != second["eval_result_metrics"]["sae"]
    llm, sae = first["eval_result_metrics"].values()
    assert llm["llm_test_accuracy"] > 0.8
    assert sae["sae_test_accuracy"] > 0.75
    for key, value in (llm | sae).items():
        by_dataset = [entry[key] for entry in first["eval_result_details"]]
        assert value is None or value == pytest.approx(np.mean(by_dataset))
        if value is not None:
            low, high = first["saepipe"]["intervals"][key]
            assert low < value <= high
    by_class = first["eval_result_unstructured"]["job_results"]["sae_top_1_test_accuracy"]
    assert list(by_class) == ["nurse", "chef", "lawyer"]
    assert first["eval_result_details"][1]["sae_top_1_test_accuracy"] == pytest.approx(np.mean(list(by_class.values())))
    summary = first["saepipe"]["datasets"]["job"]
    assert summary["num_test"] == {"nurse": 40, "chef": 40, "lawyer": 40}
    assert summary["majority_rate"] == {"nurse": 0.5, "chef": 0.5, "lawyer": 0.5}
    assert summary["origin"]["files"][0]["bytes"] == Path(biographies).stat().st_size


def test_without_a_full_probe_test_texts_are_encoded_to_few_latents(
    runs: list[Path], biographies: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The accuracies equal those measured along with a full probe."""
    num_encoded: list[int | None] = []
    encode, encode_sparse = Subject.encode, Subject.encode_sparse

    def record(subject: Subject, x: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        num_encoded.append(len(latents))
        return encode(subject, x, latents)

    def record_all(subject: Subject, x: torch.Tensor) -> SparseActs:
        num_encoded.append(None)
        return encode_sparse(subject, x)

    monkeypatch.setattr(Subject, "encode", record)
    monkeypatch.setattr(Subject, "encode_sparse", record_all)
    evaluate(runs[:1], settings(biographies, tmp_path))
    (with_full,) = results(runs[:1])
    assert num_encoded == [None, None]
    config = settings(biographies, tmp_path)
    metric = config.metrics[0].model_copy(update={"full_probe": False, "k_values": (1, 5)})
    evaluate(runs[:1], config.model_copy(update={"metrics": (metric,)}))
    (without_full,) = results(runs[:1])
    assert num_encoded[2::2] == [None, None]
    assert all(5 <= (num or 0) <= 15 for num in num_encoded[3::2])
    assert without_full["saepipe"]["undefined"]["sae_test_accuracy"] == "full_probe is off"
    for key in ("sae_top_1_test_accuracy", "sae_top_5_test_accuracy"):
        assert without_full["eval_result_metrics"]["sae"][key] == with_full["eval_result_metrics"]["sae"][key]
    for name, summary in without_full["saepipe"]["datasets"].items():
        for label, latents in summary["latents"].items():
            assert latents == with_full["saepipe"]["datasets"][name]["latents"][label][:5]


def test_news_through_the_toy_model(runs: list[Path], ag_news: Path, tmp_path: Path) -> None:
    """Even a toy model tells four topics of real text apart better than chance; warm results have the same bits."""
    smaller = ["train_size=200", "test_size=120", "k_values=[1,10]", f"datasets.0.source={ag_news}"]
    overrides = ["device=cpu", f"artifacts={tmp_path / 'work'}", *(f"metrics.0.{setting}" for setting in smaller)]
    config = EvaluateConfig.load(EXAMPLE, overrides)
    evaluate(runs[:1], config)
    cold = results(runs[:1])
    delete_results(runs[:1])
    evaluate(runs[:1], config)
    warm = results(runs[:1])
    assert values(cold[0]) == values(warm[0])
    assert cold[0]["saepipe"]["findings"] == cold[0]["saepipe"]["warnings"] == []
    assert cold[0]["saepipe"]["intervals"]["llm_test_accuracy"][0] > 0.55
    assert cold[0]["saepipe"]["undefined"]["sae_top_5_test_accuracy"] == "k_values does not contain 5"


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ({"datasets": ["toy_gendr"]}, "no dataset called 'toy_gendr'"),
        ({"datasets": ["toy_gender", "toy_gender"]}, "listed twice"),
        ({"k_values": [1, 3]}, r"no key for k in \[3\]"),
        ({"test_size": 10}, "must be at least 40"),
    ],
)
def test_invalid_settings(metric: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig.parse({"metrics": [{"name": "sparse_probing", **metric}]})


def test_default_datasets_depend_on_the_cache(toy_cache: Path) -> None:
    from types import SimpleNamespace

    def names(model: str, dataset: str, metric: SparseProbing) -> list[str]:
        attributes = {"config": {"model": {"model": model}, "dataset": {"source": dataset}}}
        testbed: Any = SimpleNamespace(cache=SimpleNamespace(attributes=attributes), mode="fixed")
        return [settings.config.name for settings in metric.dataset_settings(testbed)]

    default = SparseProbing()
    assert names("toy", "org/text", default) == ["toy_profession", "toy_gender", "toy_category", "toy_sentiment"]
    assert names("google/gemma-2-2b", "org/text", default)[0] == "LabHC/bias_in_bios_class_set1"
    assert len(names("google/gemma-2-2b", "org/text", default)) == 8
    assert names("toy", "toy", SparseProbing.parse({"datasets": ["fancyzhx/ag_news"]})) == ["fancyzhx/ag_news"]
    assert default.k_values == KS
    assert Cache.open(toy_cache).attributes["config"]["model"]["model"] == "toy"
