"""The schemas accept results as SAEBench 0.6.0 writes them, and no others."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from helpers.result_schemas import KS, NUM_ABLATED, check

pytestmark = pytest.mark.quick

OURS: dict[str, Any] = {
    "metric_version": 1,
    "mode": "fixed",
    "request": "r",
    "config": {},
    "fingerprints": {"run": "r", "cache": "c", "model": {"id": "tiny"}},
    "hook": "blocks.1.hook_resid_post",
    "variant": "v",
    "seeds": {"seed": 0},
    "metrics": {},
    "intervals": {"unlearning_score": [0.1, 0.3]},
    "undefined": {},
    "warnings": [],
    "counts": {},
    "provenance": {},
}
LLM = {"llm_test_accuracy": 0.9} | {f"llm_top_{k}_test_accuracy": 0.7 for k in KS}
SAE = {"sae_test_accuracy": 0.9} | {f"sae_top_{k}_test_accuracy": 0.7 for k in KS}
SCR = {f"scr_{kind}_threshold_{n}": 0.2 for n in NUM_ABLATED for kind in ("dir1", "metric", "dir2")}
TPP = {
    f"tpp_threshold_{n}_{kind}": 0.1
    for n in NUM_ABLATED
    for kind in ("total_metric", "intended_diff_only", "unintended_diff_only")
}
ABSORPTION = {
    f"{statistic}_{score}": 0.1
    for statistic in ("mean", "std_dev")
    for score in ("absorption_fraction_score", "full_absorption_score", "num_split_features")
}
LETTER = {
    "first_letter": "a",
    "mean_absorption_fraction": 0.1,
    "full_absorption_rate": 0.0,
    "num_full_absorption": 0,
    "num_probe_true_positives": 12,
    "num_split_features": 1,
}
RAVEL = {"disentanglement_score": 0.5, "cause_score": 0.6, "isolation_score": 0.4}
RAVEL_OF_ONE = {"cause_score": 0.6, "isolation_score": 0.4, "disentangle_score": 0.5}
BY_CLASS = {"ag_news_results": {"llm_test_accuracy": {"0": 0.9}}}
EXAMPLES: dict[str, tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]] = {
    "sparse_probing": ({"llm": LLM, "sae": SAE}, [{"dataset_name": "ag_news_results"} | LLM | SAE], BY_CLASS),
    "absorption_first_letter": ({"mean": ABSORPTION}, [LETTER], {}),
    "scr": ({"scr_metrics": SCR}, [{"dataset_name": "toy_scr_doctor_nurse_results"} | SCR], {}),
    "tpp": ({"tpp_metrics": TPP}, [{"dataset_name": "toy_tpp_results"} | TPP], BY_CLASS),
    "ravel": ({"ravel": RAVEL}, [], {"city_results": {"city_Country": RAVEL_OF_ONE}}),
    "unlearning": ({"unlearning": {"unlearning_score": 0.2}}, [], {}),
}


def result(kind: str) -> dict[str, Any]:
    metrics, details, unstructured = copy.deepcopy(EXAMPLES[kind])
    return {
        "eval_type_id": kind,
        "eval_config": {},
        "eval_id": "an-id",
        "datetime_epoch_millis": 0,
        "eval_result_metrics": metrics,
        "eval_result_details": details,
        "sae_bench_commit_hash": "Unknown",
        "sae_lens_id": "custom_sae",
        "sae_lens_release_id": "v/seed-0",
        "sae_lens_version": "Unknown",
        "sae_cfg_dict": {},
        "eval_result_unstructured": unstructured,
        "saepipe": copy.deepcopy(OURS),
    }


@pytest.mark.parametrize("kind", EXAMPLES)
def test_exactly_the_references_keys_are_accepted(kind: str) -> None:
    check(result(kind))
    [group] = list(result(kind)["eval_result_metrics"])[:1]
    for change in ("missing", "another", "a word"):
        wrong = result(kind)
        figures = wrong["eval_result_metrics"][group]
        key = next(iter(figures))
        if change == "missing":
            del figures[key]
        else:
            figures["another" if change == "another" else key] = "0.5"
        with pytest.raises(ValidationError):
            check(wrong)


def test_null_needs_a_reason() -> None:
    unexplained = result("unlearning")
    unexplained["eval_result_metrics"]["unlearning"]["unlearning_score"] = None
    with pytest.raises(AssertionError, match="null without a reason"):
        check(unexplained)
    unexplained["saepipe"]["undefined"]["unlearning_score"] = "no question was answered right"
    check(unexplained)


def test_order_names_and_numbers_are_checked() -> None:
    with pytest.raises(AssertionError, match="order"):
        check(dict(reversed(result("tpp").items())))
    not_a_number = result("unlearning")
    not_a_number["eval_result_metrics"]["unlearning"]["unlearning_score"] = float("nan")
    with pytest.raises(ValueError, match="JSON compliant"):
        check(not_a_number)
    misnamed = result("tpp")
    misnamed["eval_result_details"][0]["dataset_name"] = "toy"
    with pytest.raises(ValidationError, match="dataset_name"):
        check(misnamed)
    upside_down = result("unlearning")
    upside_down["saepipe"]["intervals"] = {"unlearning_score": [0.3, 0.1]}
    with pytest.raises(AssertionError, match="upside down"):
        check(upside_down)


def test_a_metric_of_our_own_has_the_envelope() -> None:
    ours = result("unlearning") | {"eval_type_id": "geometry"}
    ours["eval_result_metrics"] = {"decoder": {"mean_cosine": 0.1}}
    check(ours)
    del ours["saepipe"]["mode"]
    with pytest.raises(ValidationError, match="mode"):
        check(ours)
