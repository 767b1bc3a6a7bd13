"""The whole metric on SAEs made by hand, on which the effect of clamping is known."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.metrics.base import Measurement
from saepipe.evaluate.metrics.unlearning.intervention import Clamp
from saepipe.evaluate.metrics.unlearning.settings_grid import ClampOutcome, ClampSetting, score
from saepipe.evaluate.stats.intervals import Estimate

D_IN = 128


def score_of(measurement: Measurement) -> Estimate:
    estimate = measurement.metrics["unlearning"]["unlearning_score"]
    assert isinstance(estimate, Estimate)
    return estimate


def plain(measurement: Measurement) -> dict[str, Any]:
    return asdict(measurement)


@pytest.fixture
def one_latent(make_sae):
    """Makes SAEs with one live latent, whose encoder and decoder lie along a direction."""

    def make(direction, bias, decoder_norm=1.0):
        directions = torch.zeros(3, D_IN)
        directions[1] = direction
        biases = torch.tensor([-1.0, bias, -1.0])
        return make_sae(directions.T.contiguous() / decoder_norm, directions * decoder_norm, biases / decoder_norm)

    return make


@pytest.fixture
def knowledge_sae(one_latent, latents):
    return one_latent(latents.c_word, latents.c_word_bias)


@pytest.fixture
def unrelated_sae(one_latent, latents):
    return one_latent(latents.c_letter, latents.c_letter_bias)


def test_clamping_a_latent_that_carries_the_knowledge_unlearns_it(metric, testbed, subject_of, knowledge_sae) -> None:
    measurement = metric().measure([subject_of(knowledge_sae)], testbed, Silent())[0]
    assert score_of(measurement).value == 1
    assert 0.8 < score_of(measurement).low < 0.9  # Wilson, 20 of 20
    assert score_of(measurement).high == 1
    (best,) = [row for row in measurement.more["interventions"] if row["gives_the_score"]]
    assert best["latents"] == [1]
    assert best["forget_accuracy"] == 0
    assert best["retain_accuracy"] == 1
    assert measurement.counts["forget_questions"] == 20
    assert measurement.counts["retain_questions"] == 24
    assert [(row["asked"], row["right"]) for row in measurement.more["questions"]] == [(20, 20), (24, 24)]
    assert [measurement.extra[f"unlearning_llm_{which}_accuracy"].value for which in ("forget", "retain")] == [1, 1]


def test_clamping_a_latent_that_carries_something_else_does_not(metric, testbed, subject_of, unrelated_sae) -> None:
    measurement = metric().measure([subject_of(unrelated_sae)], testbed, Silent())[0]
    assert score_of(measurement).value == 0
    assert score_of(measurement).reason is None
    assert all(row["latents"] == [1] and row["forget_accuracy"] == 1 for row in measurement.more["interventions"])


def test_fewer_latents_than_asked_for_give_a_warning(metric, testbed, subject_of, knowledge_sae) -> None:
    measurement = metric().measure([subject_of(knowledge_sae)], testbed, Silent())[0]
    rows = measurement.more["interventions"]
    assert len(rows) == 2 * 2 * 2
    assert len({(row["retain_threshold"], row["num_latents"], row["multiplier"]) for row in rows}) == 8
    assert sum("of the 2 latents asked for" in warning for warning in measurement.warnings) == 2
    assert any("24 retained questions" in warning for warning in measurement.warnings)


@pytest.mark.parametrize(("mode", "expected"), [("fixed", None), ("reference", 0)])
def test_without_latents_there_is_a_reason(metric, testbed_at, tmp_path, subject_of, make_sae, mode, expected) -> None:
    dead = make_sae(torch.zeros(D_IN, 3), torch.zeros(3, D_IN))
    estimate = score_of(metric().measure([subject_of(dead)], testbed_at(tmp_path, mode), Silent())[0])
    assert estimate.value == expected
    assert ("no latent is active" in (estimate.reason or "")) == (mode == "fixed")


def test_no_answered_questions_give_a_reason(metric, testbed, subject_of, knowledge_sae) -> None:
    # The model names the word's letter, whichever choice is right, so no question is right in every order.
    measurement = metric(permutations=24).measure([subject_of(knowledge_sae)], testbed, Silent())[0]
    assert measurement.counts["forget_questions"] == 0
    assert score_of(measurement).value is None
    assert "answers no forget question" in (score_of(measurement).reason or "")
    assert measurement.extra["unlearning_llm_forget_accuracy"].value == 0


def test_the_decoders_scale_matters_only_in_mode_reference(
    metric, testbed_at, tmp_path, subject_of, one_latent, latents
) -> None:
    subjects = [subject_of(one_latent(latents.c_word, latents.c_word_bias, norm)) for norm in (1.0, 1 / 16)]
    small = metric(multipliers=[10], num_latents=[1], retain_thresholds=[0.05])
    scores = {
        mode: [score_of(m).value for m in small.measure(subjects, testbed_at(tmp_path / mode, mode), Silent())]
        for mode in ("fixed", "reference")
    }
    assert scores["fixed"][0] > 0.9
    assert scores["fixed"][0] == scores["fixed"][1] == scores["reference"][0] > scores["reference"][1]


def test_the_models_work_is_done_once(metric, testbed_at, tmp_path, subject_of, knowledge_sae, unrelated_sae) -> None:
    cold = testbed_at(tmp_path / "one")
    alone = metric().measure([subject_of(knowledge_sae)], cold, Silent())
    together = testbed_at(tmp_path / "both")
    both = metric().measure([subject_of(unrelated_sae), subject_of(knowledge_sae)], together, Silent())
    assert plain(both[1]) == plain(alone[0])
    assert (cold.passes.full, cold.passes.lower) == (together.passes.full, together.passes.lower)
    assert cold.passes.full == 20 + 24
    assert together.passes.upper == 2 * cold.passes.upper == 2 * 2 * (20 + 24)  # one latent set, two multipliers

    warm = testbed_at(tmp_path / "one")
    assert all(warm.kept_work.has(work.kind, work.key) for work in metric().works(warm))
    assert plain(metric().measure([subject_of(knowledge_sae)], warm, Silent())[0]) == plain(alone[0])
    assert (warm.passes.full, warm.passes.lower) == (0, 0)


def test_a_plan_needs_no_model(metric, testbed_at, tmp_path) -> None:
    testbed = testbed_at(tmp_path)
    works = metric(num_windows=130).works(testbed)
    kinds = [work.kind for work in works]
    assert kinds.count("unlearning_windows") == kinds.count("unlearning_questions") == 2
    assert kinds.count("unlearning_activations") == 2 * 3  # blocks of 64 windows
    assert "language_model" not in vars(testbed)


def test_settings_and_files_decide_the_work(metric, testbed, files) -> None:
    def keys(**settings):
        return [work.key for work in metric(**settings).works(testbed)]

    assert keys() == keys()
    assert keys() != keys(seed=1)
    assert keys() != keys(permutations=2)
    assert keys() != keys(prompt="{question} begins with")
    before, text = keys(), (files / "retain.jsonl").read_text()
    (files / "retain.jsonl").write_text(text + '\n{"text": "one more"}')
    after = keys()
    (files / "retain.jsonl").write_text(text)
    assert before != after
    assert before == keys()


def outcome(forget: list[int], retain: list[int], latents: int = 1) -> ClampOutcome:
    setting = ClampSetting(0.01, 10, Clamp(torch.arange(latents), 25.0, "fixed"))
    return ClampOutcome(setting, np.array(forget, dtype=bool), np.array(retain, dtype=bool))


def test_only_settings_that_keep_99_percent_count() -> None:
    kept, lost = [1] * 99 + [0], [1] * 98 + [0, 0]
    outcomes = [outcome([1, 1, 1, 0], kept), outcome([1, 0, 0, 1], kept), outcome([0, 0, 0, 0], lost)]
    for mode in ("fixed", "reference"):
        estimate, best = score(outcomes, mode)
        assert estimate.value == 0.5
        assert best is outcomes[1]


def test_no_score_if_no_setting_retains_enough() -> None:
    outcomes = [outcome([0, 0], [1, 0])]
    fixed, best = score(outcomes, "fixed")
    assert fixed.value is None
    assert "99%" in (fixed.reason or "")
    assert best is None
    assert score(outcomes, "reference")[0].value == 0


def test_a_setting_without_latents_does_not_count_in_mode_fixed() -> None:
    outcomes = [outcome([1, 1], [1, 1], latents=0), outcome([0, 0], [0, 0])]
    assert score(outcomes, "fixed")[0].value is None
    assert score(outcomes, "reference")[0].value == 0


@pytest.mark.parametrize("prompt", ["what is it?", "{question} {E}", "{question} {}"])
def test_invalid_prompts_are_errors(metric, prompt) -> None:
    with pytest.raises(ConfigError, match="prompt"):
        metric(prompt=prompt)
