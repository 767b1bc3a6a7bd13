"""SCR and TPP from run folders to result files on the toy model: shared work, stored work, results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from helpers.result_schemas import check
from saepipe.data import toy
from saepipe.data.errors import ConfigError
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.metrics.concepts.outcome import (
    Outcome,
    bootstrap_estimate,
    check_chance_level,
    mean_score,
    missing_latents_warnings,
)
from saepipe.evaluate.metrics.concepts.perturb import bootstrap_weights
from saepipe.evaluate.metrics.concepts.probe_setup import ConceptProbes
from saepipe.evaluate.metrics.concepts.sparse_direction import STRENGTHS, fit_sparse
from saepipe.evaluate.model.testbed import Passes
from saepipe.evaluate.plan import plan
from saepipe.evaluate.run import evaluate
from saepipe.evaluate.stats.linear_probes import Scaling
from saepipe.evaluate.texts.binary_questions import BinaryExamples
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

SMALL: dict[str, Any] = {"train_size": 80, "test_size": 40, "context_size": 24}


@pytest.fixture(scope="module")
def runs(toy_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    settings = {
        "cache": str(toy_cache),
        "hook": "blocks.1.hook_resid_post",
        "device": "cpu",
        "sae": {"name": "relu", "d_sae": 96},
        "penalties": [{"name": "l1", "weight": 0.5}],
        "steps": 40,
        "batch_size": 256,
        "optimizer": {"lr": 3e-3},
        "variants": [{"name": "relu"}, {"name": "topk", "sae": {"name": "topk", "d_sae": 64, "k": 8}, "penalties": []}],
    }
    return train(TrainConfig.parse(settings), tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def biographies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 2,000 biographies with their professions and genders."""
    path = tmp_path_factory.mktemp("texts") / "biographies.jsonl"
    documents = toy.documents(2**21, 2000, ["biography"])
    lines = [{"text": d.text, "job": d.labels["profession"], "sex": d.labels["gender"]} for d in documents]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def metrics(biographies: Path) -> dict[str, dict[str, Any]]:
    jobs = ["nurse", "surgeon", "teacher"]
    data = {"name": "jobs", "source": str(biographies), "label": "job", "attribute": "sex", "classes": jobs}
    pairs = {"data": data, "pairs": [jobs[:2]], "attributes": ["male", "female"]}
    return {
        "tpp": {"name": "tpp", "datasets": [data], "n_values": [2, 100], **SMALL},
        "scr": {"name": "scr", "datasets": [pairs], "n_values": [2, 10], **SMALL},
        "sparse_probing": {"name": "sparse_probing", "datasets": [data], "k_values": [1], "full_probe": False, **SMALL},
    }


def config_of(metric: dict[str, Any], artifacts: Path, **more: Any) -> EvaluateConfig:
    settings = {"device": "cpu", "features": None, "metrics": [metric], "artifacts": str(artifacts)}
    return EvaluateConfig.parse(settings | more)


@pytest.mark.parametrize("name", ["tpp", "scr"])
def test_cold_warm_and_separate_evaluations_agree(
    name: str, runs: list[Path], metrics: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Two SAEs need as many model passes as one, a second call none, and the stored examples are always the same."""
    results, passes = [], []
    for call, (store, subset) in enumerate([("a", runs), ("a", runs), ("b", runs[1:])]):
        config, count = config_of(metrics[name], tmp_path / store), Passes()
        planned = plan(subset, config, out=tmp_path / str(call))
        assert (planned["model_work_to_do"] == []) == (call == 1)
        paths = evaluate(subset, config, out=tmp_path / str(call), passes=count)
        results.append([json.loads(path.read_text()) for path in paths])
        passes.append((count.full, count.lower, count.upper))
        for result in results[-1]:
            check(result)
    texts = {"tpp": 3 * (40 + 20), "scr": 6 * (20 + 10)}[name]
    assert passes == [(0, texts, 0), (0, 0, 0), (0, texts, 0)]
    assert _values(results[0]) == _values(results[1])
    assert _values(results[0][1:]) == _values(results[2])
    assert _stored(tmp_path / "a" / "concepts") == _stored(tmp_path / "b" / "concepts")
    assert _values(results[0][:1]) != _values(results[0][1:])


def _values(results: list[dict[str, Any]]) -> list[Any]:
    keys = ("eval_result_metrics", "eval_result_details", "eval_result_unstructured")
    return [[result[key] for key in keys] + [result["saepipe"]["intervals"]] for result in results]


def _stored(folder: Path) -> list[bytes]:
    files = sorted(folder.rglob("*.safetensors"))
    assert files
    return [file.read_bytes() for file in files]


def test_contents_of_a_tpp_file(runs: list[Path], metrics: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    [path] = evaluate(runs[:1], config_of(metrics["tpp"], tmp_path / "a"), out=tmp_path)
    result = json.loads(path.read_text())
    scores, own = result["eval_result_metrics"]["tpp_metrics"], result["saepipe"]
    by_class = result["eval_result_unstructured"]["jobs"]
    assert list(by_class) == ["nurse", "surgeon", "teacher"]
    key = "tpp_threshold_2_total_metric"
    assert scores[key] == pytest.approx(np.mean([values[key] for values in by_class.values()]))
    low, high = own["intervals"][key]
    assert low <= scores[key] <= high
    assert scores["tpp_threshold_50_total_metric"] is None
    assert "n_values" in own["undefined"]["tpp_threshold_50_total_metric"]
    assert any("n = 100" in warning for warning in own["warnings"])  # the SAE has 96 latents
    assert own["metrics"]["tpp_llm_test_accuracy"] > 0.6
    assert result["eval_result_details"][0]["dataset_name"] == "jobs_tpp_results"
    assert result["eval_config"]["train_set_size"] == 80
    summary = own["datasets"]["jobs_tpp"]
    assert (summary["num_train"], summary["num_test"]) == (80, 40)
    assert summary["intervals"][key] == pytest.approx(own["intervals"][key])  # the only dataset
    assert set(summary["clean_accuracies"]) == set(by_class)


def test_texts_are_shared_with_sparse_probing(
    runs: list[Path], metrics: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    evaluate(runs[:1], config_of(metrics["tpp"], tmp_path / "a"), out=tmp_path)
    passes = Passes()
    evaluate(runs[:1], config_of(metrics["sparse_probing"], tmp_path / "a"), out=tmp_path, passes=passes)
    assert passes.lower == 0


def test_mode_reference(runs: list[Path], metrics: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """SCR without a gap scores 0, there are no intervals, and more latents than the SAE has are an error."""
    for name in ("tpp", "scr"):
        metric = metrics[name] | {"n_values": [2]}
        [path] = evaluate(runs[1:], config_of(metric, tmp_path / "a", mode="reference"), out=tmp_path)
        result = json.loads(path.read_text())
        check(result)
        assert result["saepipe"]["intervals"] == {}
        values = [value for key, value in next(iter(result["eval_result_metrics"].values())).items() if "_2_" in key]
        assert None not in values
    with pytest.raises(ConfigError, match="cannot ablate 100 latents of an SAE that has 64"):
        evaluate(runs[1:], config_of(metrics["tpp"], tmp_path / "a", mode="reference"), out=tmp_path / "more")


def outcome(name: str = "a", clean: float = 0.9, num_ablated: tuple[int, ...] = (2, 5), **scores: Any) -> Outcome:
    return Outcome(name, f"{name}_tpp", scores, {}, {"x": clean}, 100, 100, np.array([num_ablated]))


def test_means_are_over_defined_scores() -> None:
    assert mean_score([np.array([1.0, 3.0]), "no", np.array([2.0, 5.0])]).tolist() == [1.5, 4.0]
    assert mean_score(["no", "never", "no"]) == "no; never"


def test_intervals_are_quantiles_of_the_resamples() -> None:
    resamples = np.arange(1.0, 1002.0)
    estimate = bootstrap_estimate(np.concatenate([[7.0], resamples]))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((7.0, 26.0, 976.0))
    assert bootstrap_estimate(np.array([7.0])).low is None
    resamples[:50] = np.nan  # nearly a twentieth are undefined, so the quantiles are unknown
    assert bootstrap_estimate(np.concatenate([[7.0], resamples])).low is None


def test_probes_at_chance_are_an_error() -> None:
    """The standard error of 100 coin tosses is 0.05."""
    assert check_chance_level([outcome(clean=0.62)]) == []
    [finding] = check_chance_level([outcome("a", clean=0.59), outcome("b", clean=0.45)])
    assert (finding.rule, finding.severity) == ("H10", "error")
    assert "a_tpp, b_tpp" in finding.message
    assert check_chance_level([outcome(clean=0.5), outcome(clean=0.9)]) == []


def test_fewer_latents_than_asked_for_give_a_warning() -> None:
    assert missing_latents_warnings([outcome(num_ablated=(2, 5))], [2, 5]) == []
    [warning] = missing_latents_warnings([outcome(num_ablated=(2, 5)), outcome(num_ablated=(2, 4))], [2, 5])
    assert warning.startswith("n = 5:")
    assert "as few as 4" in warning


def test_bootstrap_weights_depend_on_the_seed() -> None:
    weights = bootstrap_weights(50, 300, seed=1)
    assert weights[0].tolist() == [1.0] * 50
    assert set(weights.sum(1).tolist()) == {50.0}
    assert torch.equal(weights, bootstrap_weights(50, 300, seed=1))
    assert not torch.equal(weights, bootstrap_weights(50, 300, seed=2))
    assert weights[1:].var(0).mean() == pytest.approx(1 - 1 / 50, rel=0.1)  # variance of multinomial counts


def test_probes_find_a_direction_but_nothing_in_noise() -> None:
    """Both kinds of probes, on 400 examples."""
    rng = torch.Generator().manual_seed(2)
    x, y = torch.randn(800, 8, generator=rng), torch.arange(800) % 2 == 0
    examples = [(BinaryExamples(torch.arange(400), y[:400]), BinaryExamples(torch.arange(400), y[:400]))]
    signal = x.clone()
    signal[:, 3] += torch.where(y, 8.0, -8.0)

    def fitted(x: torch.Tensor, mode: str) -> tuple[float, torch.Tensor]:
        probes = ConceptProbes.fit(x[:400], x[400:], examples, mode, torch.Generator().manual_seed(3))
        return float(((probes.logits(x[400:])[:, 0] > 0) == y[400:]).float().mean()), probes.directions[0]

    accuracy, direction = fitted(signal, "fixed")
    assert accuracy == 1.0
    assert direction.nonzero().tolist() == [[3]]
    assert 0.9 <= fitted(signal, "reference")[0] < 1.0  # still near its random start after 500 steps of 0.001
    assert max(fitted(x, mode)[0] for mode in ("fixed", "reference")) < 0.6


def test_sparse_directions_minimise_the_objective() -> None:
    """For exactly one C, no step along a coordinate lowers the objective."""
    rng = torch.Generator().manual_seed(4)
    x = 5 + torch.randn(300, 6, generator=rng) * torch.tensor([0.1, 1.0, 10.0, 1.0, 1.0, 1.0])
    y = (x[:, 0] - 5) * 10 + (x[:, 2] - 5) / 10 + 0.5 * torch.randn(300, generator=rng) > 0
    probe = fit_sparse(x, y, 60)
    scaling = Scaling.of(x)
    rows, weight = scaling(x), torch.where(scaling.scale > 0, probe.weight / scaling.scale, 0.0)
    bias = probe.bias + float(scaling.mean @ probe.weight)
    assert torch.allclose(rows @ weight + bias, probe.logits(x))

    def objective(weight: torch.Tensor, C: float) -> float:
        loss = binary_cross_entropy_with_logits(rows @ weight + bias, y.double(), reduction="sum")
        return float(C * loss + weight.abs().sum())

    steps = 0.05 * torch.cat([torch.eye(6), -torch.eye(6)]).double()
    optimal = [C for C in STRENGTHS if all(objective(weight + step, C) > objective(weight, C) for step in steps)]
    assert len(optimal) == 1
    assert probe.correct(x, y).float().mean() > 0.85
