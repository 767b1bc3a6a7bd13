"""The whole metric on SAEs made by hand, for which it is known what clamping does."""

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
from saepipe.evaluate.metrics.unlearning.settings_grid import Outcome, Setting, score
from saepipe.evaluate.stats.intervals import Estimate

D_IN = 128


def score_of(found: Measurement) -> Estimate:
    figure = found.metrics["unlearning"]["unlearning_score"]
    assert isinstance(figure, Estimate)
    return figure


def plain(found: Measurement) -> dict[str, Any]:
    return asdict(found)


@pytest.fixture
def one_latent(make_sae):
    """An SAE with one latent of use: encoder and decoder along a direction."""

    def make(direction, bias, decoder_norm=1.0):
        directions = torch.zeros(3, D_IN)
        directions[1] = direction
        biases = torch.tensor([-1.0, bias, -1.0])
        return make_sae(directions.T.contiguous() / decoder_norm, directions * decoder_norm, biases / decoder_norm)

    return make


@pytest.fixture
def knowing(one_latent, latents):
    return one_latent(latents.c_word, latents.c_word_bias)


@pytest.fixture
def innocent(one_latent, latents):
    return one_latent(latents.c_letter, latents.c_letter_bias)


def test_a_latent_that_carries_the_knowledge_unlearns_it(metric, testbed, subject_of, knowing) -> None:
    found = metric().measure([subject_of(knowing)], testbed, Silent())[0]
    assert score_of(found).value == 1
    assert 0.8 < score_of(found).low < 0.9  # Wilson, 20 of 20
    assert score_of(found).high == 1
    (best,) = [row for row in found.more["interventions"] if row["gives_the_score"]]
    assert best["latents"] == [1]
    assert best["forget_accuracy"] == 0
    assert best["retain_accuracy"] == 1
    assert found.counts["forget_questions"] == 20
    assert found.counts["retain_questions"] == 24
    assert [(one["asked"], one["right"]) for one in found.more["questions"]] == [(20, 20), (24, 24)]
    assert [found.extra[f"unlearning_llm_{which}_accuracy"].value for which in ("forget", "retain")] == [1, 1]


def test_a_latent_that_carries_something_else_does_not(metric, testbed, subject_of, innocent) -> None:
    found = metric().measure([subject_of(innocent)], testbed, Silent())[0]
    assert score_of(found).value == 0
    assert score_of(found).reason is None
    assert all(row["latents"] == [1] and row["forget_accuracy"] == 1 for row in found.more["interventions"])


def test_fewer_latents_than_wanted_are_said(metric, testbed, subject_of, knowing) -> None:
    found = metric().measure([subject_of(knowing)], testbed, Silent())[0]
    assert len(found.more["interventions"]) == 2 * 2 * 2
    rows = {(row["retain_threshold"], row["num_latents"], row["multiplier"]) for row in found.more["interventions"]}
    assert len(rows) == 8
    assert sum("of the 2 latents wanted" in warning for warning in found.warnings) == 2
    assert any("24 retained questions" in warning for warning in found.warnings)


@pytest.mark.parametrize(("mode", "expected"), [("fixed", None), ("reference", 0)])
def test_without_latents_there_is_a_reason(metric, testbed_at, tmp_path, subject_of, make_sae, mode, expected) -> None:
    dead = make_sae(torch.zeros(D_IN, 3), torch.zeros(3, D_IN))
    found = score_of(metric().measure([subject_of(dead)], testbed_at(tmp_path, mode), Silent())[0])
    assert found.value == expected
    assert ("no latent fires" in (found.reason or "")) == (mode == "fixed")


def test_questions_the_model_cannot_answer_give_a_reason(metric, testbed, subject_of, knowing) -> None:
    # The model names the word's letter, wherever the right choice stands, so no question is right in every order.
    found = metric(permutations=24).measure([subject_of(knowing)], testbed, Silent())[0]
    assert found.counts["forget_questions"] == 0
    assert score_of(found).value is None
    assert "answers no forget question" in (score_of(found).reason or "")
    assert found.extra["unlearning_llm_forget_accuracy"].value == 0


def test_the_decoders_scale_does_not_matter_unless_as_the_reference(
    metric, testbed_at, tmp_path, subject_of, one_latent, latents
) -> None:
    subjects = [subject_of(one_latent(latents.c_word, latents.c_word_bias, norm)) for norm in (1.0, 1 / 16)]
    small = metric(multipliers=[10], num_latents=[1], retain_thresholds=[0.05])
    scores = {
        mode: [score_of(one).value for one in small.measure(subjects, testbed_at(tmp_path / mode, mode), Silent())]
        for mode in ("fixed", "reference")
    }
    assert scores["fixed"][0] > 0.9
    assert scores["fixed"][0] == scores["fixed"][1] == scores["reference"][0] > scores["reference"][1]


def test_the_models_work_is_done_once(metric, testbed_at, tmp_path, subject_of, knowing, innocent) -> None:
    cold = testbed_at(tmp_path / "one")
    alone = metric().measure([subject_of(knowing)], cold, Silent())
    together = testbed_at(tmp_path / "both")
    both = metric().measure([subject_of(innocent), subject_of(knowing)], together, Silent())
    assert plain(both[1]) == plain(alone[0])
    assert (cold.passes.full, cold.passes.lower) == (together.passes.full, together.passes.lower)
    assert cold.passes.full == 20 + 24
    assert together.passes.upper == 2 * cold.passes.upper == 2 * 2 * (20 + 24)  # one latent set, two multipliers

    warm = testbed_at(tmp_path / "one")
    assert all(warm.artifacts.has(work.kind, work.key) for work in metric().works(warm))
    assert plain(metric().measure([subject_of(knowing)], warm, Silent())[0]) == plain(alone[0])
    assert (warm.passes.full, warm.passes.lower) == (0, 0)


def test_a_plan_needs_no_model(metric, testbed_at, tmp_path) -> None:
    testbed = testbed_at(tmp_path)
    works = metric(num_windows=130).works(testbed)
    kinds = [work.kind for work in works]
    assert kinds.count("unlearning_windows") == kinds.count("unlearning_questions") == 2
    assert kinds.count("unlearning_activations") == 2 * 3  # blocks of 64 windows
    assert "language_model" not in vars(testbed)


def test_what_is_asked_is_part_of_the_work(metric, testbed, files) -> None:
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


def outcome(forget: list[int], retain: list[int], latents: int = 1) -> Outcome:
    setting = Setting(0.01, 10, Clamp(torch.arange(latents), 25.0, "fixed"))
    return Outcome(setting, np.array(forget, dtype=bool), np.array(retain, dtype=bool))


def test_only_settings_that_keep_99_percent_count() -> None:
    kept, lost = [1] * 99 + [0], [1] * 98 + [0, 0]
    outcomes = [outcome([1, 1, 1, 0], kept), outcome([1, 0, 0, 1], kept), outcome([0, 0, 0, 0], lost)]
    for mode in ("fixed", "reference"):
        found, best = score(outcomes, mode)
        assert found.value == 0.5
        assert best is outcomes[1]


def test_no_score_where_every_setting_breaks_the_rest() -> None:
    outcomes = [outcome([0, 0], [1, 0])]
    fixed, best = score(outcomes, "fixed")
    assert fixed.value is None
    assert "99%" in (fixed.reason or "")
    assert best is None
    assert score(outcomes, "reference")[0].value == 0


def test_a_setting_without_latents_is_none() -> None:
    outcomes = [outcome([1, 1], [1, 1], latents=0), outcome([0, 0], [0, 0])]
    assert score(outcomes, "fixed")[0].value is None
    assert score(outcomes, "reference")[0].value == 0


@pytest.mark.parametrize("prompt", ["what is it?", "{question} {E}", "{question} {}"])
def test_a_prompt_must_be_fillable(metric, prompt) -> None:
    with pytest.raises(ConfigError, match="prompt"):
        metric(prompt=prompt)
