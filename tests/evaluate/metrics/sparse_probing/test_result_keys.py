"""Probes of classes: which texts they are asked about, what they answer, its interval, and H10."""

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
    FULL,
    Answer,
    Answers,
    fixed_answers,
    from_tensors,
    reference_answers,
    to_tensors,
)
from saepipe.evaluate.metrics.sparse_probing.chance import at_chance, check_probes
from saepipe.evaluate.metrics.sparse_probing.tasks import numbered, tasks
from saepipe.evaluate.stats import intervals as stats

LABELS = ["a"] * 60 + ["b"] * 60 + ["c"] * 60 + ["a"] * 40 + ["b"] * 40 + ["c"] * 40
NUM_TRAIN, D = 180, 12


@pytest.fixture
def x() -> torch.Tensor:
    """Column 3 tells class a from the others; the others are noise, of which 7 is constant."""
    x = torch.randn(len(LABELS), D, generator=torch.Generator().manual_seed(0))
    x[:, 3] += 8 * torch.tensor([label == "a" for label in LABELS]).float()
    x[:, 7] = 0.25
    return x


def answered(x: torch.Tensor, labels: Sequence[str] = LABELS, ks: tuple[int, ...] = (1, 2, 5, 10)) -> Answers:
    asked = tasks(labels, NUM_TRAIN, 1, mirrored=False)
    return fixed_answers(x, asked, ks, full=True, told=lambda: None)


def test_tasks_are_balanced_and_on_their_own_side() -> None:
    asked = tasks(LABELS, NUM_TRAIN, 1, mirrored=False)
    assert [task.label for task in asked] == ["a", "b", "c"]
    for task in asked:
        for side, of_class, texts in ((task.train, 60, range(180)), (task.test, 40, range(180, 300))):
            assert set(side.rows.tolist()) <= set(texts)
            assert len(set(side.rows.tolist())) == 2 * of_class
            labels = [LABELS[row] for row in side.rows]
            assert [label == task.label for label in labels] == side.positive.tolist()
            others = [label for label in labels if label != task.label]
            assert sorted(map(others.count, set(others))) == [of_class // 2] * 2
    assert not torch.equal(asked[0].train.rows, tasks(LABELS, NUM_TRAIN, 2, mirrored=False)[0].train.rows)


def test_two_classes_are_one_task_unless_it_is_to_be_mirrored() -> None:
    labels = (["no"] * 30 + ["yes"] * 30) * 2
    assert [task.label for task in tasks(labels, 60, 0, mirrored=False)] == ["no"]
    assert [task.label for task in tasks(labels, 60, 0, mirrored=True)] == ["no", "yes"]


def test_a_column_that_tells_is_found_and_enough(x: torch.Tensor) -> None:
    answers = answered(x)
    assert answers["1"]["a"].columns.tolist() == [3]
    assert answers["1"]["a"].accuracy == 1.0
    assert answers[FULL]["a"].accuracy > 0.95
    chance = 3.3 / (2 * math.sqrt(80))
    assert abs(answers["1"]["b"].accuracy - 0.5) < chance + 0.25  # knowing a, half of b's negatives are known
    assert 7 not in answers[FULL]["a"].columns


def test_columns_of_a_smaller_k_are_among_those_of_a_larger_one(x: torch.Tensor) -> None:
    answers = answered(x)
    for label in "abc":
        chosen = [answers[str(k)][label].columns.tolist() for k in (1, 2, 5, 10)]
        for fewer, more in pairwise(chosen):
            assert more[: len(fewer)] == fewer


def test_the_scale_of_a_latent_changes_nothing(x: torch.Tensor) -> None:
    scaled = x * torch.logspace(-3, 3, D)
    found = answered(scaled)
    for probe, by_class in answered(x).items():
        for label, answer in by_class.items():
            other = found[probe][label]
            assert other.columns.tolist() == answer.columns.tolist()
            assert torch.equal(other.correct, answer.correct)


def test_random_labels_are_at_chance(x: torch.Tensor) -> None:
    order = np.random.default_rng(0).permutation(len(LABELS))
    shuffled = [LABELS[index] for index in order[:NUM_TRAIN]] + [LABELS[index] for index in order[NUM_TRAIN:]]
    found = answered(x, shuffled)
    assert at_chance(found)
    assert not at_chance(answered(x))
    for by_class in found.values():
        num = sum(len(answer.rows) for answer in by_class.values())
        mean = sum(answer.accuracy for answer in by_class.values()) / len(by_class)
        assert abs(mean - 0.5) < 3.3 / (2 * math.sqrt(num))


def test_more_columns_than_there_are_is_no_answer(x: torch.Tensor) -> None:
    assert list(answered(x, ks=(10, 20))) == [FULL, "10"]


def test_answers_come_back_from_their_file(x: torch.Tensor) -> None:
    answers = answered(x)
    tensors, names = to_tensors(answers)
    again = from_tensors(tensors, json.loads(json.dumps(names)))
    assert list(again) == list(answers)
    for probe, by_class in answers.items():
        for label, answer in by_class.items():
            assert torch.equal(again[probe][label].correct, answer.correct)
            assert torch.equal(again[probe][label].weight, answer.weight)


def test_mode_reference_draws_and_fits_as_saebench_does(x: torch.Tensor) -> None:
    """Its k-sparse part, written out with the global generator: negatives anew for each k, no scaling, C = 1."""
    found = reference_answers(
        x, LABELS, NUM_TRAIN, (1, 5), torch.Generator().manual_seed(9), full=False, told=lambda: None
    )
    numbers, classes = numbered(LABELS)
    torch.manual_seed(9)

    def prepared(part: torch.Tensor, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        by_class = [part[part[:, -1] == one] for one in range(3)]
        positive = by_class[index]
        share = math.ceil(len(positive) / 2)
        others = [one[torch.randperm(len(one))[:share]] for number, one in enumerate(by_class) if number != index]
        negative = torch.cat(others)
        negative = negative[torch.randperm(len(negative))[: len(positive)]]
        rows = torch.cat([positive, negative])
        order = torch.randperm(len(rows))
        return rows[order, :-1], (order < len(positive)).float()

    table = torch.cat([x, numbers[:, None].float()], dim=1)
    for k in (1, 5):
        for index, label in enumerate(classes):
            (known, y), (unseen, y_test) = prepared(table[:NUM_TRAIN], index), prepared(table[NUM_TRAIN:], index)
            distance = (known[y == 1].mean(0) - known[y == 0].mean(0)).abs()
            columns = distance.argsort(descending=True)[:k].sort().values
            model = LogisticRegression(max_iter=1000).fit(known[:, columns].numpy(), y.numpy())
            answer = found[str(k)][label]
            assert answer.columns.tolist() == columns.tolist()
            assert answer.accuracy == pytest.approx(model.score(unseen[:, columns].numpy(), y_test.numpy()))


def test_mode_reference_trains_the_full_probe_on_columns_as_they_are(x: torch.Tensor) -> None:
    found = reference_answers(
        x, LABELS, NUM_TRAIN, (1,), torch.Generator().manual_seed(9), full=True, told=lambda: None
    )
    assert found[FULL]["a"].accuracy > 0.9
    assert len(found[FULL]["a"].columns) == D
    assert list(found) == [FULL, "1"]


def answer(rows: Sequence[int], correct: Sequence[bool]) -> Answer:
    """Every other text is of the class."""
    few = torch.zeros(1, dtype=torch.int64)
    positive = torch.arange(len(rows)) % 2 == 0
    return Answer(torch.tensor(rows), torch.tensor(correct), positive, few, few.double(), few[0].double())


def test_of_one_class_the_interval_is_wilsons() -> None:
    correct = [True] * 170 + [False] * 30
    found, wilson = accuracy([answer(range(200), correct)]), stats.proportion(np.array(correct))
    assert found.value == pytest.approx(0.85)
    assert found.low == pytest.approx(wilson.low, abs=2e-4)  # a sample variance has N - 1 where Wilson has N
    assert found.high == pytest.approx(wilson.high, abs=2e-4)


def test_of_all_right_the_interval_is_not_a_point() -> None:
    found = accuracy([answer(range(100), [True] * 100), answer(range(100), [True] * 100)])
    assert found.high == pytest.approx(1.0)
    assert found.low == pytest.approx(stats.proportion(np.ones(100, dtype=bool)).low)


def test_a_text_asked_about_twice_counts_once() -> None:
    """Against a bootstrap over texts: two classes that agree on every text are no better than one."""
    rng = np.random.default_rng(0)
    right = rng.random(300) < 0.8
    other = rng.random(300) < 0.8
    same = [answer(range(300), right.tolist())] * 2
    apart = [answer(range(300), right.tolist()), answer(range(200, 500), other.tolist())]
    for answers in (same, apart):
        found = accuracy(answers)
        assert found.low is not None
        assert found.high is not None
        assert (found.high - found.low) / 3.92 == pytest.approx(bootstrap(answers, rng), rel=0.06)
    assert bootstrap(apart, rng) < 0.8 * bootstrap(same, rng)


def bootstrap(answers: Sequence[Answer], rng: np.random.Generator) -> float:
    """Standard deviation of the mean accuracy when texts are drawn with replacement."""
    num_texts = int(max(answer.rows.max() for answer in answers)) + 1
    means = []
    for _ in range(2000):
        weights = np.bincount(rng.integers(num_texts, size=num_texts), minlength=num_texts)
        drawn = [np.average(a.correct.numpy(), weights=weights[a.rows.numpy()]) for a in answers]
        means.append(np.mean(drawn))
    return float(np.std(means))


def one_probe(*accuracies: float, num: int = 100) -> Answers:
    """A probe of k = 1 and a full one; each accuracy is of a class."""
    by_class = {
        str(index): answer(range(num), [n < round(share * num) for n in range(num)])
        for index, share in enumerate(accuracies)
    }
    return {FULL: by_class, "1": by_class}


GOOD, CHANCE = one_probe(0.9, 0.7), one_probe(0.57, 0.45)
UNLUCKY = [one_probe(0.55, share) for share in (0.45, 0.47, 0.49)]
NO = answer(range(100), [False, True] * 50)
DEAD = {FULL: {"0": NO, "1": NO}, "1": {"0": NO, "1": NO}}


@pytest.mark.parametrize(
    ("sae", "llm", "says"),
    [
        ([GOOD, CHANCE], [GOOD, GOOD], []),
        ([GOOD, CHANCE, *UNLUCKY], [GOOD] * 5, ["on 4 of 5 data sets .*the latents are dead"]),
        ([CHANCE], [CHANCE], ["on 1 of 1 data sets .*look at the labels"]),
        ([GOOD, DEAD], [GOOD, GOOD], ["on 1 the probe of the most latents says the same of every text"]),
        ([DEAD], [GOOD], ["on 1 of 1 data sets .*the latents are dead", "on 0 the probe of the most latents says"]),
        ([GOOD, one_probe(0.5, 0.5)], [GOOD, GOOD], []),
        ([GOOD] * 4, [GOOD] * 4, ["equal, to the last bit, on 4 data sets"]),
        ([GOOD] * 3, [GOOD] * 3, []),
        ([one_probe(1.0, 1.0)] * 4, [GOOD] * 4, []),
    ],
)
def test_h10(sae: list[Answers], llm: list[Answers], says: list[str]) -> None:
    named = ({str(number): answers for number, answers in enumerate(side)} for side in (sae, llm))
    findings = list(check_probes(*named))
    assert [finding.rule for finding in findings] == ["H10"] * len(says)
    for finding, words in zip(findings, says, strict=True):
        assert re.search(words, finding.message)
