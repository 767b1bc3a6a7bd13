"""Result files: SAEBench's keys in SAEBench's order, and no NaN."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.flips import silent_flips
from helpers.repository import DOCS
from helpers.result_schemas import check
from saepipe.data.config.base import fingerprint
from saepipe.data.config.component import import_members
from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.sealed_result import write_result
from saepipe.data.folders.standing import Standing
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.metrics.base import Metric
from saepipe.evaluate.metrics.core.metric import Core
from saepipe.evaluate.results.result_file import Request, envelope, read, standing

pytestmark = pytest.mark.quick

PAGES = DOCS / "metrics"


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
    """Measures an SAE and returns its result as an evaluation writes it."""

    def make(sae: Any, request: Request) -> dict[str, Any]:
        subject = subject_of(sae)
        subject.run.data_seed = 7
        measurement = Core().measure([subject], testbed, Silent())[0]
        return envelope(measurement, request, Core(), subject, testbed, "an-id")

    return make


def test_keys_and_types(result_of, random_sae) -> None:
    result = json.loads(json.dumps(result_of(random_sae, request_of()), allow_nan=False))
    check(result)
    assert len(result["eval_result_details"]) == 24
    assert result["eval_config"]["context_size"] == 20


def test_provenance(result_of, random_sae) -> None:
    ours = result_of(random_sae, request_of())["saepipe"]
    model = {"id": "tiny", "weights": "w"}
    assert ours["fingerprints"] == {"run": "r", "cache": "c", "model": model, "baseline": None}
    assert ours["seeds"] == {"seed": 0, "data_seed": 7}
    assert (ours["mode"], ours["metric_version"], ours["hook"]) == ("fixed", Core.version, "blocks.1.hook_resid_post")
    low, high = ours["intervals"]["explained_variance"]
    assert low < high


def test_null_figures_have_a_reason(result_of, make_sae) -> None:
    result = result_of(make_sae(torch.zeros(16, 2), torch.zeros(2, 16)), request_of())
    json.dumps(result, allow_nan=False)
    assert result["eval_result_metrics"]["shrinkage"]["relative_reconstruction_bias"] is None
    assert "orthogonal" in result["saepipe"]["undefined"]["relative_reconstruction_bias"]
    assert result["eval_result_details"][0]["max_encoder_cosine_sim"] is None
    assert -1 not in result["eval_result_metrics"]["shrinkage"].values()


def test_a_result_is_current_for_an_equal_request_only(result_of, random_sae, tmp_path: Path) -> None:
    path = tmp_path / "core.json"
    assert not standing(path, request_of()).done
    write_result(path, result_of(random_sae, request_of()))
    assert standing(path, request_of()).done
    for change in (
        {"run": "s"},
        {"cache": "d"},
        {"batch_size": 8},
        {"dtype": "bfloat16"},
        {"metric_version": 2},
        {"works": "v"},
    ):
        assert not standing(path, request_of(**change)).done, change
    assert not standing(path, request_of(metric=Core(num_contexts=3).to_dict())).done


def test_a_damaged_result_is_an_error_and_not_done(tmp_path: Path) -> None:
    path = tmp_path / "eval" / "core.json"
    path.parent.mkdir()
    path.write_text('{"saepipe": ')
    with pytest.raises(CorruptDataError, match=f"is not a result of saepipe\n.*saepipe evaluate {tmp_path}"):
        read(path)
    assert standing(path, request_of()) == Standing(done=False, damage=f"{path} is not a result of saepipe")


def test_no_flipped_bit_is_silent(result_of, random_sae, tmp_path: Path) -> None:
    path = tmp_path / "core.json"
    write_result(path, result_of(random_sae, request_of()))

    def content() -> dict[str, Any]:
        result = read(path)
        result["saepipe"] = {key: result["saepipe"].get(key) for key in result["saepipe"] if "digest" not in key}
        return result

    assert silent_flips(path, content, 60) == []


def test_an_edited_figure_is_named(result_of, random_sae, tmp_path: Path) -> None:
    path = tmp_path / "core.json"
    write_result(path, result_of(random_sae, request_of()))
    result = json.loads(path.read_text())
    result["eval_result_metrics"]["reconstruction_quality"]["explained_variance"] = 0.111
    artifact.write_json(path, result)
    with pytest.raises(CorruptDataError, match=r"core\.json was changed after it was written"):
        read(path)


def test_other_whitespace_is_no_change(result_of, random_sae, tmp_path: Path) -> None:
    path = tmp_path / "core.json"
    write_result(path, result_of(random_sae, request_of()))
    path.write_text(json.dumps(read(path), sort_keys=True))
    assert standing(path, request_of()) == Standing(done=True)


def test_a_result_of_an_earlier_version_is_accepted_and_said_to_be_unchecked(
    result_of, random_sae, tmp_path: Path
) -> None:
    path = tmp_path / "core.json"
    artifact.write_json(path, result_of(random_sae, request_of()))
    assert "not checked" in standing(path, request_of()).remark


def test_siblings_are_of_the_request_where_there_are_any() -> None:
    """Without them it is the request of earlier versions, whose results stay up to date."""
    earlier = {key: value for key, value in asdict(request_of()).items() if key != "siblings"}
    assert request_of().fingerprint == fingerprint(earlier)
    prints = {request_of(siblings=siblings).fingerprint for siblings in ((), ("a",), ("a", "b"))}
    assert len(prints) == 3


def test_every_key_of_core_is_documented(result_of, random_sae) -> None:
    page = (PAGES / "core.md").read_text()
    result = result_of(random_sae, request_of())
    groups = (*result["eval_result_metrics"].values(), result["saepipe"]["metrics"], result["eval_result_details"][0])
    keys = {key for group in groups for key in group} - {"index"}
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


def test_every_figure_of_a_table_is_documented() -> None:
    import_members(Metric.package)
    pages = {page.stem: page.read_text() for page in PAGES.glob("*.md")}
    for name, metric in Metric.members.items():
        assert issubclass(metric, Metric)
        page = next((text for stem, text in pages.items() if name in stem.split("_and_")), "")
        written = {key: {key, re.sub(r"\d+", "n", key), re.sub(r"\d+", "{k}", key)} for key in metric.shown}
        assert [key for key, forms in written.items() if not any(f"`{form}`" in page for form in forms)] == [], name
