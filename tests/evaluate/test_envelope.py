"""The JSON of a result: SAEBench's keys in SAEBench's order, and no NaN."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from saepipe.data import artifact
from saepipe.data.component import import_members
from saepipe.data.errors import CorruptDataError
from saepipe.data.progress import Silent
from saepipe.evaluate.envelope import Request, envelope, existing
from saepipe.evaluate.metrics.base import Metric
from saepipe.evaluate.metrics.core import Core

DOCS = Path(__file__).parents[2] / "docs" / "metrics"
KEYS = [
    "eval_type_id",
    "eval_config",
    "eval_id",
    "datetime_epoch_millis",
    "eval_result_metrics",
    "eval_result_details",
    "sae_bench_commit_hash",
    "sae_lens_id",
    "sae_lens_release_id",
    "sae_lens_version",
    "sae_cfg_dict",
    "eval_result_unstructured",
    "saepipe",
]
METRICS = {
    "model_behavior_preservation": {"kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"},
    "model_performance_preservation": {
        "ce_loss_score",
        "ce_loss_with_ablation",
        "ce_loss_with_sae",
        "ce_loss_without_sae",
    },
    "reconstruction_quality": {"explained_variance", "explained_variance_legacy", "mse", "cossim"},
    "shrinkage": {"l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"},
    "sparsity": {"l0", "l1"},
    "token_stats": {"total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"},
    "misc_metrics": {
        "freq_over_1_percent",
        "freq_over_10_percent",
        "normalized_freq_over_1_percent",
        "normalized_freq_over_10_percent",
        "average_max_encoder_cosine_sim",
        "average_max_decoder_cosine_sim",
        "frac_alive",
    },
}
LATENT = [
    "index",
    "feature_density",
    "consistent_activation_heuristic",
    "encoder_bias",
    "encoder_norm",
    "encoder_decoder_cosine_sim",
    "max_decoder_cosine_sim",
    "max_encoder_cosine_sim",
]


def request_of(**changes: Any) -> Request:
    settings: dict[str, Any] = {
        "run": "r",
        "cache": "c",
        "hook": "blocks.1.hook_resid_post",
        "metric": Core().to_dict(),
        "metric_version": 1,
        "batch_size": 4,
        "dtype": "float32",
        "mode": "fixed",
        "activations": "stored",
        "baseline": None,
        "works": "w",
    }
    return Request(**settings | changes)


@pytest.fixture
def result_of(testbed, subject_of):
    """An SAE measured and written as an evaluation does."""

    def make(sae: Any, request: Request) -> dict[str, Any]:
        subject = subject_of(sae)
        subject.run.data_seed = 7
        measurement = Core().measure([subject], testbed, Silent())[0]
        return envelope(measurement, request, Core(), subject, testbed, "an-id")

    return make


def test_keys_and_types(result_of, random_sae) -> None:
    result = json.loads(json.dumps(result_of(random_sae, request_of()), allow_nan=False))
    assert list(result) == KEYS
    assert {category: set(group) for category, group in result["eval_result_metrics"].items()} == METRICS
    for category, group in result["eval_result_metrics"].items():
        kind = int if category == "token_stats" else float
        assert all(isinstance(value, kind) for value in group.values()), category
    assert [set(latent) for latent in result["eval_result_details"]] == [set(LATENT)] * 24
    assert 0 <= result["datetime_epoch_millis"] <= 9999999999999
    assert result["eval_config"]["context_size"] == 20


def test_where_it_came_from(result_of, random_sae) -> None:
    ours = result_of(random_sae, request_of())["saepipe"]
    model = {"id": "tiny", "weights": "w"}
    assert ours["fingerprints"] == {"run": "r", "cache": "c", "model": model, "baseline": None}
    assert ours["seeds"] == {"seed": 0, "data_seed": 7}
    assert (ours["mode"], ours["metric_version"], ours["hook"]) == ("fixed", Core.version, "blocks.1.hook_resid_post")
    low, high = ours["intervals"]["explained_variance"]
    assert low < high


def test_null_has_a_reason(result_of, make_sae) -> None:
    result = result_of(make_sae(torch.zeros(16, 2), torch.zeros(2, 16)), request_of())
    json.dumps(result, allow_nan=False)
    assert result["eval_result_metrics"]["shrinkage"]["relative_reconstruction_bias"] is None
    assert "orthogonal" in result["saepipe"]["undefined"]["relative_reconstruction_bias"]
    assert result["eval_result_details"][0]["max_encoder_cosine_sim"] is None
    assert -1 not in result["eval_result_metrics"]["shrinkage"].values()


def test_a_result_is_known_by_what_it_answers(result_of, random_sae, tmp_path: Path) -> None:
    path = tmp_path / "core.json"
    assert not existing(path, request_of())
    artifact.write_json(path, result_of(random_sae, request_of()))
    assert existing(path, request_of())
    for change in (
        {"run": "s"},
        {"cache": "d"},
        {"batch_size": 8},
        {"dtype": "bfloat16"},
        {"metric_version": 2},
        {"works": "v"},
    ):
        assert not existing(path, request_of(**change)), change
    assert not existing(path, request_of(metric=Core(num_contexts=3).to_dict()))


def test_a_damaged_result_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "core.json").write_text('{"saepipe": ')
    with pytest.raises(CorruptDataError, match="no evaluation"):
        existing(tmp_path / "core.json", request_of())


def test_every_key_is_explained() -> None:
    page = (DOCS / "core.md").read_text()
    keys = {key for group in METRICS.values() for key in group} | {*LATENT[1:], "fvu", "delta_ce", "resume_gap"}
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


def test_every_figure_of_a_table_is_explained() -> None:
    import_members(Metric.package)
    pages = {page.stem: page.read_text() for page in DOCS.glob("*.md")}
    for name, metric in Metric.members.items():
        assert issubclass(metric, Metric)
        page = next((text for stem, text in pages.items() if name in stem.split("_and_")), "")
        written = {key: {key, re.sub(r"\d+", "n", key), re.sub(r"\d+", "{k}", key)} for key in metric.shown}
        assert [key for key, forms in written.items() if not any(f"`{form}`" in page for form in forms)] == [], name
