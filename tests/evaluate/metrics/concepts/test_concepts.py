"""SCR and TPP from a run folder to a file, on the toy model: what is shared, stored and said."""

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
from saepipe.evaluate.metrics.concepts.outcome import Outcome, chance_level, estimate, mean_of, told_of_fewer
from saepipe.evaluate.metrics.concepts.perturb import resamples
from saepipe.evaluate.metrics.concepts.probe_setup import Concepts
from saepipe.evaluate.metrics.concepts.sparse_direction import STRENGTHS, fit_sparse
from saepipe.evaluate.model.testbed import Passes
from saepipe.evaluate.plan import plan
from saepipe.evaluate.run import evaluate
from saepipe.evaluate.stats.linear_probes import Scaling
from saepipe.evaluate.texts.binary_questions import Examples
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
    """The professions and genders of 2,000 biographies."""
    path = tmp_path_factory.mktemp("texts") / "biographies.jsonl"
    documents = toy.documents(2**21, 2000, ["biography"])
    lines = [{"text": one.text, "job": one.labels["profession"], "sex": one.labels["gender"]} for one in documents]
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
def test_cold_and_warm_and_elsewhere_give_the_same(
    name: str, runs: list[Path], metrics: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Two SAEs cost the model what one does; a second call costs it nothing; index sets do not depend on either."""
    results, passes = [], []
    for call, (store, some) in enumerate([("a", runs), ("a", runs), ("b", runs[1:])]):
        config, count = config_of(metrics[name], tmp_path / store), Passes()
        planned = plan(some, config, out=tmp_path / str(call))
        assert (planned["model_work_to_do"] == []) == (call == 1)
        paths = evaluate(some, config, out=tmp_path / str(call), passes=count)
        results.append([json.loads(path.read_text()) for path in paths])
        passes.append((count.full, count.lower, count.upper))
        for result in results[-1]:
            check(result)
    texts = {"tpp": 3 * (40 + 20), "scr": 6 * (20 + 10)}[name]
    assert passes == [(0, texts, 0), (0, 0, 0), (0, texts, 0)]
    assert _figures(results[0]) == _figures(results[1])
    assert _figures(results[0][1:]) == _figures(results[2])
    assert _stored(tmp_path / "a" / "concepts") == _stored(tmp_path / "b" / "concepts")
    assert _figures(results[0][:1]) != _figures(results[0][1:])


def _figures(results: list[dict[str, Any]]) -> list[Any]:
    keys = ("eval_result_metrics", "eval_result_details", "eval_result_unstructured")
    return [[result[key] for key in keys] + [result["saepipe"]["intervals"]] for result in results]


def _stored(folder: Path) -> list[bytes]:
    files = sorted(folder.rglob("*.safetensors"))
    assert files
    return [file.read_bytes() for file in files]


def test_what_a_tpp_file_says(runs: list[Path], metrics: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    [path] = evaluate(runs[:1], config_of(metrics["tpp"], tmp_path / "a"), out=tmp_path)
    result = json.loads(path.read_text())
    found, ours = result["eval_result_metrics"]["tpp_metrics"], result["saepipe"]
    by_class = result["eval_result_unstructured"]["jobs"]
    assert list(by_class) == ["nurse", "surgeon", "teacher"]
    key = "tpp_threshold_2_total_metric"
    assert found[key] == pytest.approx(np.mean([values[key] for values in by_class.values()]))
    low, high = ours["intervals"][key]
    assert low <= found[key] <= high
    assert found["tpp_threshold_50_total_metric"] is None
    assert "n_values" in ours["undefined"]["tpp_threshold_50_total_metric"]
    assert any("n = 100" in warning for warning in ours["warnings"])  # of 96 latents
    assert ours["metrics"]["tpp_llm_test_accuracy"] > 0.6
    assert result["eval_result_details"][0]["dataset_name"] == "jobs_tpp_results"
    assert result["eval_config"]["train_set_size"] == 80
    about = ours["datasets"]["jobs_tpp"]
    assert (about["num_train"], about["num_test"]) == (80, 40)
    assert about["intervals"][key] == pytest.approx(ours["intervals"][key])  # of the one data set there is
    assert set(about["clean_accuracies"]) == set(by_class)


def test_texts_are_shared_with_sparse_probing(
    runs: list[Path], metrics: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    evaluate(runs[:1], config_of(metrics["tpp"], tmp_path / "a"), out=tmp_path)
    passes = Passes()
    evaluate(runs[:1], config_of(metrics["sparse_probing"], tmp_path / "a"), out=tmp_path, passes=passes)
    assert passes.lower == 0


def test_mode_reference(runs: list[Path], metrics: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """A score of SCR without a gap is 0, figures have no intervals, and more latents than there are is an error."""
    for name in ("tpp", "scr"):
        metric = metrics[name] | {"n_values": [2]}
        [path] = evaluate(runs[1:], config_of(metric, tmp_path / "a", mode="reference"), out=tmp_path)
        result = json.loads(path.read_text())
        check(result)
        assert result["saepipe"]["intervals"] == {}
        values = [value for key, value in next(iter(result["eval_result_metrics"].values())).items() if "_2_" in key]
        assert None not in values
    with pytest.raises(ConfigError, match="100 latents are to be switched off, and the SAE has 64"):
        evaluate(runs[1:], config_of(metrics["tpp"], tmp_path / "a", mode="reference"), out=tmp_path / "more")


def outcome(name: str = "a", clean: float = 0.9, num_off: tuple[int, ...] = (2, 5), **values: Any) -> Outcome:
    return Outcome(name, f"{name}_tpp", values, {}, {"x": clean}, 100, 100, np.array([num_off]))


def test_averages_are_over_those_that_have_a_number() -> None:
    assert mean_of([np.array([1.0, 3.0]), "no", np.array([2.0, 5.0])]).tolist() == [1.5, 4.0]
    assert mean_of(["no", "never", "no"]) == "no; never"


def test_intervals_are_quantiles_of_the_draws() -> None:
    draws = np.arange(1.0, 1002.0)
    found = estimate(np.concatenate([[7.0], draws]))
    assert (found.value, found.low, found.high) == pytest.approx((7.0, 26.0, 976.0))
    assert estimate(np.array([7.0])).low is None
    draws[:50] = np.nan  # nearly a twentieth undefined: its place among the quantiles is unknown
    assert estimate(np.concatenate([[7.0], draws])).low is None


def test_probes_at_chance_are_an_error() -> None:
    """The standard error of a coin thrown 100 times is 0.05."""
    assert chance_level([outcome(clean=0.62)]) == []
    [finding] = chance_level([outcome("a", clean=0.59), outcome("b", clean=0.45)])
    assert (finding.rule, finding.severity) == ("H10", "error")
    assert "a_tpp, b_tpp" in finding.message
    assert chance_level([outcome(clean=0.5), outcome(clean=0.9)]) == []


def test_fewer_latents_than_asked_for_are_told() -> None:
    assert told_of_fewer([outcome(num_off=(2, 5))], [2, 5]) == []
    [said] = told_of_fewer([outcome(num_off=(2, 5)), outcome(num_off=(2, 4))], [2, 5])
    assert said.startswith("n = 5:")
    assert "4 at least" in said


def test_the_bootstrap_is_of_the_seed() -> None:
    weights = resamples(50, 300, seed=1)
    assert weights[0].tolist() == [1.0] * 50
    assert set(weights.sum(1).tolist()) == {50.0}
    assert torch.equal(weights, resamples(50, 300, seed=1))
    assert not torch.equal(weights, resamples(50, 300, seed=2))
    assert weights[1:].var(0).mean() == pytest.approx(1 - 1 / 50, rel=0.1)  # of counts in a multinomial draw


def test_probes_find_a_direction_and_nothing_in_noise() -> None:
    """Both kinds of probe, on 400 examples."""
    rng = torch.Generator().manual_seed(2)
    x, y = torch.randn(800, 8, generator=rng), torch.arange(800) % 2 == 0
    examples = [(Examples(torch.arange(400), y[:400]), Examples(torch.arange(400), y[:400]))]
    signal = x.clone()
    signal[:, 3] += torch.where(y, 8.0, -8.0)

    def fitted(x: torch.Tensor, mode: str) -> tuple[float, torch.Tensor]:
        made = Concepts.fit(x[:400], x[400:], examples, mode, torch.Generator().manual_seed(3))
        return float(((made.logits(x[400:])[:, 0] > 0) == y[400:]).float().mean()), made.directions[0]

    accuracy, direction = fitted(signal, "fixed")
    assert accuracy == 1.0
    assert direction.nonzero().tolist() == [[3]]
    assert 0.9 <= fitted(signal, "reference")[0] < 1.0  # after 500 steps of 0.001 it is still near its random start
    assert max(fitted(x, mode)[0] for mode in ("fixed", "reference")) < 0.6


def test_sparse_directions_against_another_solver() -> None:
    """The objective, minimised coordinate by coordinate, cannot be lowered by a step in any of them."""
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
