"""The whole metric on SAEs whose cause and isolation are known."""

from __future__ import annotations

from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from helpers.known_places import HOOK, PLACES, write_places
from helpers.result_schemas import check
from saepipe.data.cache.joint_hooks import JOINT
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.metrics.base import Measurement
from saepipe.evaluate.metrics.ravel.latent_mask import swap_latents
from saepipe.evaluate.metrics.ravel.metric import Ravel
from saepipe.evaluate.results.result_file import Request, envelope


def values(measurement: Measurement) -> dict[str, Any]:
    figures = {**measurement.metrics["ravel"], **measurement.extra}
    return {key: getattr(figure, "value", figure) for key, figure in figures.items()}


def measured(metric: Ravel, testbed, subject) -> Measurement:
    (measurement,) = metric.measure([subject], testbed, Silent())
    return measurement


def test_latents_of_one_attribute_each_have_cause_and_isolation(metric, testbed, subject_of, perfect_sae) -> None:
    measurement = measured(metric(), testbed, subject_of(perfect_sae))
    figures = values(measurement)
    assert [figures[f"{key}_score"] for key in ("cause", "isolation", "disentanglement")] == [1, 1, 1]
    assert [row["latents"] for row in measurement.more["attributes"]] == [[0, 1, 2, 3], [4, 5, 6]]
    assert figures["ravel_num_latents"] == 3.5
    assert figures["ravel_llm_accuracy"] == 1
    assert measurement.metrics["ravel"]["cause_score"].low == pytest.approx(11 / (11 + 1.96**2), abs=1e-3)
    assert measurement.metrics["ravel"]["cause_score"].high == 1
    assert measurement.unstructured == {
        "place_results": {
            f"place_{name}": {"cause_score": 1.0, "isolation_score": 1.0, "disentangle_score": 1.0}
            for name in ("country", "language")
        }
    }
    assert measurement.findings == []
    assert measurement.counts["known_prompts"] == measurement.counts["prompts"] == 36 * 4
    assert (measurement.counts["train_entities"], measurement.counts["test_entities"]) == (25, 11)


def test_silent_latents_change_nothing(metric, testbed, subject_of, silent_sae) -> None:
    figures = values(measured(metric(), testbed, subject_of(silent_sae)))
    assert [figures[f"{key}_score"] for key in ("cause", "isolation", "disentanglement")] == [0, 1, 0.5]
    assert figures["ravel_num_latents"] == 0


def test_latents_of_both_attributes_cannot_have_both(metric, testbed, subject_of, mixed_sae) -> None:
    """Swapping all latents moves both attributes, swapping none moves neither, and no mask does better."""
    ravel, subject = metric(), subject_of(mixed_sae)
    figures = values(measured(ravel, testbed, subject))
    assert figures["disentanglement_score"] <= 0.5
    inputs = ravel._trial(0, testbed, Silent()).inputs
    rows = inputs.select(0, test=True)
    is_cause = inputs.is_cause[rows]
    with testbed.upper_layers() as upper_layers:
        for selected in (torch.ones(12, dtype=torch.bool), torch.zeros(12, dtype=torch.bool)):
            reached = swap_latents(subject, upper_layers, inputs, rows, selected, batch_size=8)
            assert (reached == (is_cause == selected[0])).all()


def test_the_whole_activation_moves_every_attribute(metric, testbed, subject_of, silent_sae) -> None:
    measurement = measured(metric(), testbed, subject_of(silent_sae))
    figures = values(measurement)
    assert (figures["ravel_llm_swap_cause"], figures["ravel_llm_swap_isolation"]) == (1, 0)
    assert all(row["whole_swap"] == {"cause_score": 1, "isolation_score": 0} for row in measurement.more["attributes"])


def test_where_the_model_no_longer_reads_the_entity_there_is_no_result(
    metric, testbed_at, tmp_path, subject_of, perfect_sae
) -> None:
    testbed = testbed_at(tmp_path, hook="blocks.1.hook_resid_post")
    measurement = measured(metric(), testbed, subject_of(perfect_sae))
    assert values(measurement)["ravel_llm_swap_cause"] == 0
    (finding,) = measurement.findings
    assert (finding.rule, finding.severity, finding.evaluation) == ("H10", "error", "ravel")
    assert "changes 0% of the answers" in finding.message


def test_what_the_model_does_not_know_is_not_measured(metric, testbed, subject_of, perfect_sae, tmp_path) -> None:
    """The file gives most places another country, so few prompts about countries are answered as it says."""
    places = [(name, (country + (n > 2)) % 4, language) for n, (name, country, language) in enumerate(PLACES)]
    write_places(tmp_path / "places.jsonl", places)
    measurement = measured(metric(tmp_path / "places.jsonl"), testbed, subject_of(perfect_sae))
    assert set(values(measurement).values()) == {None, (3 + 36) / 72}
    assert all(figure.reason for figure in measurement.metrics["ravel"].values())
    country, language = measurement.more["attributes"]
    assert (country["prompts"], country["right"]) == (72, 6)
    assert country["reason"] == "the model answers 8.3% of its prompts correctly (required: 10%)"
    assert "no other attribute" in language["reason"]
    (finding,) = measurement.findings
    assert (finding.rule, finding.severity, finding.evaluation) == ("H10", "error", "ravel")
    assert len(measurement.warnings) == 2


def test_the_models_work_is_done_once(metric, testbed_at, tmp_path, subject_of, perfect_sae, mixed_sae) -> None:
    cold = testbed_at(tmp_path / "one")
    alone = measured(metric(), cold, subject_of(perfect_sae))
    together = testbed_at(tmp_path / "both")
    both = metric().measure([subject_of(mixed_sae), subject_of(perfect_sae)], together, Silent())
    assert asdict(both[1]) == asdict(alone)
    assert (cold.passes.full, cold.passes.lower) == (together.passes.full, together.passes.lower)
    assert cold.passes.full == 36 * 4

    warm = testbed_at(tmp_path / "one")
    assert all(warm.kept_work.has(work.kind, work.key) for work in metric().works(warm))
    assert asdict(measured(metric(), warm, subject_of(perfect_sae))) == asdict(alone)
    assert (warm.passes.full, warm.passes.lower) == (0, 0)
    num_tested = alone.counts["test_pairs"]
    assert cold.passes.upper - warm.passes.upper == num_tested  # whole activations swapped


def test_settings_and_files_decide_the_work(metric, testbed, files, tmp_path) -> None:
    def keys(**settings):
        return [work.key for work in metric(**settings).works(testbed)]

    assert keys() == keys() == keys(learning_rate=1e-2)
    assert keys(seed=1)[0] == keys()[0]
    assert keys(seed=1)[1] != keys()[1]
    write_places(tmp_path / "same.jsonl")
    assert keys(places=tmp_path / "same.jsonl") == keys()
    write_places(tmp_path / "fewer.jsonl", PLACES[1:])
    assert keys(places=tmp_path / "fewer.jsonl")[0] != keys()[0]


def test_the_result_file_has_the_references_keys(metric, testbed, subject_of, perfect_sae) -> None:
    ravel, subject = metric(), subject_of(perfect_sae)
    cache: Any = SimpleNamespace(path=testbed.cache.path, attributes={"model": {"id": "made"}})
    run: Any = SimpleNamespace(variant="by-hand", seed=0, data_seed=0)
    request = Request("r", "c", HOOK, ravel.to_dict(), ravel.version, 8, "float32", "fixed", "stored", None, "w")
    contents = envelope(
        measured(ravel, testbed, subject),
        request,
        ravel,
        replace(subject, run=run),
        replace(testbed, cache=cache),
        "an-id",
    )
    check(contents)
    assert set(Ravel.shown) == {*contents["eval_result_metrics"]["ravel"], *contents["saepipe"]["metrics"]}
    assert contents["eval_config"]["entity_attribute_selection"] == {"place": ["country", "language"]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": "blocks.1.hook_mlp_out"}, "only one layer's share"),
        ({"hook": JOINT.join([HOOK, "blocks.1.hook_resid_post"])}, "writes at one hook"),
        ({"mode": "reference"}, "no mode reference"),
    ],
)
def test_what_has_no_meaning_is_refused(metric, testbed, changes, reason) -> None:
    assert metric().refuses(testbed) is None
    assert reason in (metric().refuses(replace(testbed, **changes)) or "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attributes": ["country"]}, "at least 2"),
        ({"attributes": ["country", "country"]}, "twice"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_mistakes_in_a_class_are_errors(metric, changes, message) -> None:
    entity_class = metric().to_dict()["entity_classes"][0] | changes
    with pytest.raises(ConfigError, match=message):
        metric(entity_classes=[entity_class])


def test_two_classes_of_one_name_are_an_error(metric) -> None:
    with pytest.raises(ConfigError, match="same name"):
        metric(entity_classes=metric().to_dict()["entity_classes"] * 2)
