"""Probes of classes: their tasks, answers, accuracies with intervals, and rule H10."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from saepipe.evaluate.metrics.sparse_probing.accuracy import accuracy
from saepipe.evaluate.metrics.sparse_probing.answers import (
    Answers,
    ProbeAnswers,
    fixed_answers,
    from_tensors,
    reference_answers,
    to_tensors,
)
from saepipe.evaluate.metrics.sparse_probing.chance import at_chance, check_probes
from saepipe.evaluate.metrics.sparse_probing.probe_keys import FULL
from saepipe.evaluate.metrics.sparse_probing.tasks import number_classes, sample_tasks
from saepipe.evaluate.stats import intervals as stats

LABELS = ["a"] * 60 + ["b"] * 60 + ["c"] * 60 + ["a"] * 40 + ["b"] * 40 + ["c"] * 40
NUM_TRAIN, D = 180, 12


@pytest.fixture
def x() -> torch.Tensor:
    """Column 3 tells class a from the others; the other columns are noise, and 7 is constant."""
    x = torch.randn(len(LABELS), D, generator=torch.Generator().manual_seed(0))
    x[:, 3] += 8 * torch.tensor([label == "a" for label in LABELS]).float()
    x[:, 7] = 0.25
    return x


def answers_of(x: torch.Tensor, labels: Sequence[str] = LABELS, ks: tuple[int, ...] = (1, 2, 5, 10)) -> Answers:
    tasks = sample_tasks(labels, NUM_TRAIN, 1, mirrored=False)
    return fixed_answers(x, tasks, ks, full=True, on_step=lambda: None)


def test_tasks_are_balanced_and_keep_to_their_part() -> None:
    tasks = sample_tasks(LABELS, NUM_TRAIN, 1, mirrored=False)
    assert [task.label for task in tasks] == ["a", "b", "c"]
    for task in tasks:
        for examples, of_class, texts in ((task.train, 60, range(180)), (task.test, 40, range(180, 300))):
            assert set(examples.rows.tolist()) <= set(texts)
            assert len(set(examples.rows.tolist())) == 2 * of_class
            labels = [LABELS[row] for row in examples.rows]
            assert [label == task.label for label in labels] == examples.positive.tolist()
            others = [label for label in labels if label != task.label]
            assert sorted(map(others.count, set(others))) == [of_class // 2] * 2
    assert not torch.equal(tasks[0].train.rows, sample_tasks(LABELS, NUM_TRAIN, 2, mirrored=False)[0].train.rows)


def test_two_classes_are_one_task_unless_mirrored() -> None:
    labels = (["no"] * 30 + ["yes"] * 30) * 2
    assert [task.label for task in sample_tasks(labels, 60, 0, mirrored=False)] == ["no"]
    assert [task.label for task in sample_tasks(labels, 60, 0, mirrored=True)] == ["no", "yes"]


def test_an_informative_column_is_selected_and_sufficient(x: torch.Tensor) -> None:
    answers = answers_of(x)
    assert answers["1"]["a"].columns.tolist() == [3]
    assert answers["1"]["a"].accuracy == 1.0
    assert answers[FULL]["a"].accuracy > 0.95
    chance = 3.3 / (2 * math.sqrt(80))
    assert abs(answers["1"]["b"].accuracy - 0.5) < chance + 0.25  # half of b's negatives are a's texts
    assert 7 not in answers[FULL]["a"].columns


def test_columns_of_a_smaller_k_are_among_those_of_a_larger_one(x: torch.Tensor) -> None:
    answers = answers_of(x)
    for label in "abc":
        chosen = [answers[str(k)][label].columns.tolist() for k in (1, 2, 5, 10)]
        for fewer, more in pairwise(chosen):
            assert more[: len(fewer)] == fewer


def test_the_scale_of_a_latent_changes_nothing(x: torch.Tensor) -> None:
    scaled = x * torch.logspace(-3, 3, D)
    rescaled = answers_of(scaled)
    for probe, by_class in answers_of(x).items():
        for label, answer in by_class.items():
            other = rescaled[probe][label]
            assert other.columns.tolist() == answer.columns.tolist()
            assert torch.equal(other.correct, answer.correct)


def test_random_labels_are_at_chance(x: torch.Tensor) -> None:
    order = np.random.default_rng(0).permutation(len(LABELS))
    shuffled = [LABELS[index] for index in order[:NUM_TRAIN]] + [LABELS[index] for index in order[NUM_TRAIN:]]
    answers = answers_of(x, shuffled)
    assert at_chance(answers)
    assert not at_chance(answers_of(x))
    for by_class in answers.values():
        num = sum(len(answer.rows) for answer in by_class.values())
        mean = sum(answer.accuracy for answer in by_class.values()) / len(by_class)
        assert abs(mean - 0.5) < 3.3 / (2 * math.sqrt(num))


def test_a_k_above_the_number_of_columns_is_left_out(x: torch.Tensor) -> None:
    assert list(answers_of(x, ks=(10, 20))) == [FULL, "10"]


def test_answers_survive_being_stored(x: torch.Tensor) -> None:
    answers = answers_of(x)
    tensors, names = to_tensors(answers)
    restored = from_tensors(tensors, json.loads(json.dumps(names)))
    assert list(restored) == list(answers)
    for probe, by_class in answers.items():
        for label, answer in by_class.items():
            assert torch.equal(restored[probe][label].correct, answer.correct)
            assert torch.equal(restored[probe][label].weight, answer.weight)


def test_mode_reference_samples_and_fits_like_saebench(x: torch.Tensor) -> None:
    """Against its k-sparse probes, written out with the global generator: new negatives per k, no scaling, C = 1."""
    answers = reference_answers(
        x, LABELS, NUM_TRAIN, (1, 5), torch.Generator().manual_seed(9), full=False, on_step=lambda: None
    )
    numbers, classes = number_classes(LABELS)
    torch.manual_seed(9)

    def prepared(part: torch.Tensor, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        by_class = [part[part[:, -1] == number] for number in range(3)]
        positive = by_class[index]
        share = math.ceil(len(positive) / 2)
        others = [rows[torch.randperm(len(rows))[:share]] for number, rows in enumerate(by_class) if number != index]
        negative = torch.cat(others)
        negative = negative[torch.randperm(len(negative))[: len(positive)]]
        rows = torch.cat([positive, negative])
        order = torch.randperm(len(rows))
        return rows[order, :-1], (order < len(positive)).float()

    table = torch.cat([x, numbers[:, None].float()], dim=1)
    for k in (1, 5):
        for index, label in enumerate(classes):
            (x_train, y), (x_test, y_test) = prepared(table[:NUM_TRAIN], index), prepared(table[NUM_TRAIN:], index)
            distance = (x_train[y == 1].mean(0) - x_train[y == 0].mean(0)).abs()
            columns = distance.argsort(descending=True)[:k].sort().values
            model = LogisticRegression(max_iter=1000).fit(x_train[:, columns].numpy(), y.numpy())
            answer = answers[str(k)][label]
            assert answer.columns.tolist() == columns.tolist()
            assert answer.accuracy == pytest.approx(model.score(x_test[:, columns].numpy(), y_test.numpy()))


def test_mode_reference_trains_the_full_probe_on_raw_columns(x: torch.Tensor) -> None:
    answers = reference_answers(
        x, LABELS, NUM_TRAIN, (1,), torch.Generator().manual_seed(9), full=True, on_step=lambda: None
    )
    assert answers[FULL]["a"].accuracy > 0.9
    assert len(answers[FULL]["a"].columns) == D
    assert list(answers) == [FULL, "1"]


def answer(rows: Sequence[int], correct: Sequence[bool]) -> ProbeAnswers:
    """Returns answers on texts of which every other is of the class."""
    column = torch.zeros(1, dtype=torch.int64)
    positive = torch.arange(len(rows)) % 2 == 0
    return ProbeAnswers(
        torch.tensor(rows), torch.tensor(correct), positive, column, column.double(), column[0].double()
    )


def test_the_interval_of_one_class_is_wilsons() -> None:
    correct = [True] * 170 + [False] * 30
    estimate, wilson = accuracy([answer(range(200), correct)]), stats.proportion(np.array(correct))
    assert estimate.value == pytest.approx(0.85)
    assert estimate.low == pytest.approx(wilson.low, abs=2e-4)  # N - 1 in a sample variance, N in Wilson's
    assert estimate.high == pytest.approx(wilson.high, abs=2e-4)


def test_the_interval_is_not_a_point_if_all_answers_are_right() -> None:
    estimate = accuracy([answer(range(100), [True] * 100), answer(range(100), [True] * 100)])
    assert estimate.high == pytest.approx(1.0)
    assert estimate.low == pytest.approx(stats.proportion(np.ones(100, dtype=bool)).low)


def test_a_text_in_two_tasks_counts_once() -> None:
    """Against a bootstrap over texts: two classes that agree on every text are no better than one."""
    rng = np.random.default_rng(0)
    right = rng.random(300) < 0.8
    other_right = rng.random(300) < 0.8
    agreeing = [answer(range(300), right.tolist())] * 2
    differing = [answer(range(300), right.tolist()), answer(range(200, 500), other_right.tolist())]
    for answers in (agreeing, differing):
        estimate = accuracy(answers)
        assert estimate.low is not None
        assert estimate.high is not None
        assert (estimate.high - estimate.low) / 3.92 == pytest.approx(bootstrap(answers, rng), rel=0.06)
    assert bootstrap(differing, rng) < 0.8 * bootstrap(agreeing, rng)


def bootstrap(answers: Sequence[ProbeAnswers], rng: np.random.Generator) -> float:
    """Returns the standard deviation of the mean accuracy when texts are sampled with replacement."""
    num_texts = int(max(answer.rows.max() for answer in answers)) + 1
    means = []
    for _ in range(2000):
        weights = np.bincount(rng.integers(num_texts, size=num_texts), minlength=num_texts)
        resampled = [np.average(a.correct.numpy(), weights=weights[a.rows.numpy()]) for a in answers]
        means.append(np.mean(resampled))
    return float(np.std(means))


def probes(*accuracies: float, num: int = 100) -> Answers:
    """Returns answers of a full probe and one with k = 1, with one accuracy per class."""
    by_class = {
        str(index): answer(range(num), [n < round(share * num) for n in range(num)])
        for index, share in enumerate(accuracies)
    }
    return {FULL: by_class, "1": by_class}


GOOD, CHANCE = probes(0.9, 0.7), probes(0.57, 0.45)
UNLUCKY = [probes(0.55, share) for share in (0.45, 0.47, 0.49)]
CONSTANT = answer(range(100), [False, True] * 50)
DEAD = {FULL: {"0": CONSTANT, "1": CONSTANT}, "1": {"0": CONSTANT, "1": CONSTANT}}


@pytest.mark.parametrize(
    ("sae", "llm", "messages"),
    [
        ([GOOD, CHANCE], [GOOD, GOOD], []),
        ([GOOD, CHANCE, *UNLUCKY], [GOOD] * 5, ["on 4 of 5 datasets .*the latents are dead"]),
        ([CHANCE], [CHANCE], ["on 1 of 1 datasets .*check labels"]),
        ([GOOD, DEAD], [GOOD, GOOD], ["on 1 the probe on the most latents gives the same answer for every text"]),
        ([DEAD], [GOOD], ["on 1 of 1 datasets .*the latents are dead", "on 0 the probe on the most latents gives"]),
        ([GOOD, probes(0.5, 0.5)], [GOOD, GOOD], []),
        ([GOOD] * 4, [GOOD] * 4, ["equal, to the last bit, on 4 datasets"]),
        ([GOOD] * 3, [GOOD] * 3, []),
        ([probes(1.0, 1.0)] * 4, [GOOD] * 4, []),
    ],
)
def test_h10(sae: list[Answers], llm: list[Answers], messages: list[str]) -> None:
    by_name = ({str(number): answers for number, answers in enumerate(side)} for side in (sae, llm))
    findings = list(check_probes(*by_name))
    assert [finding.rule for finding in findings] == ["H10"] * len(messages)
    for finding, pattern in zip(findings, messages, strict=True):
        assert re.search(pattern, finding.message)
