"""TPP where the answer is known: the score by hand, one latent a class, latents that mean nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.metrics.concepts.perturb import accuracies, class_differences, resamples
from saepipe.evaluate.metrics.concepts.probe_setup import Bench, Concepts
from saepipe.evaluate.metrics.concepts.tpp import TPP, Classes, examples, tpp
from saepipe.evaluate.texts.binary_questions import Examples, one_against_rest
from saepipe.evaluate.texts.labelled_rows import Row
from saepipe.evaluate.texts.pooled import TextActivations
from saepipe.evaluate.texts.sample import LabelledTexts

D_IN, NUM_CLASSES, OF_CLASS = 64, 4, 30
LABELS = torch.arange(NUM_CLASSES).repeat_interleave(OF_CLASS)


def texts_with_directions(labels: torch.Tensor, seed: int) -> TextActivations:
    """Two tokens a text, with the coordinate of its class at 1 and a little noise in the coordinates of no class."""
    rng = torch.Generator().manual_seed(seed)
    x = one_hot(labels.repeat_interleave(2), D_IN).float()
    x[:, NUM_CLASSES:] += 0.1 * torch.randn(len(x), D_IN - NUM_CLASSES, generator=rng)
    return TextActivations(x, 2 * torch.arange(len(labels) + 1), torch.ones(len(labels), dtype=torch.int64))


@pytest.fixture
def data() -> Classes:
    """Probes that read the coordinate of their class."""
    rows = tuple(Row("text", f"class {label}") for label in [*LABELS.tolist(), *LABELS.tolist()])
    texts = LabelledTexts(rows, len(LABELS), {})
    rng = torch.Generator().manual_seed(0)
    signs = [torch.stack([e.signs(len(LABELS)) for e in examples(texts, part, rng)]) for part in ("train", "test")]
    concepts = Concepts(*signs, torch.eye(NUM_CLASSES, D_IN), torch.full((NUM_CLASSES,), -0.5))
    bench = Bench(concepts, texts_with_directions(LABELS, 1), texts_with_directions(LABELS, 2))
    weights = resamples(len(LABELS), 200, seed=3)
    clean = accuracies(concepts.logits(bench.test.pooled()), concepts.test_signs, weights)
    return Classes("by hand", texts, bench, weights, clean)


@pytest.fixture
def outcome(data, subject_of):
    def of(sae, mode: str = "fixed", n: int = 2):
        return TPP(n_values=(n,))._outcome(subject_of(sae), data, mode, torch.Generator().manual_seed(4))

    return of


def test_a_latent_a_class_is_all_that_a_probe_needs(outcome, make_sae) -> None:
    """Without its latent a class's probe says no to every text, so it is right of half; no other probe notices."""
    directions = torch.eye(NUM_CLASSES, D_IN)
    found = outcome(make_sae(directions.T, directions))
    assert {key: value[0] for key, value in found.values.items()} == {
        "tpp_threshold_2_total_metric": 0.5,
        "tpp_threshold_2_intended_diff_only": 0.5,
        "tpp_threshold_2_unintended_diff_only": 0.0,
    }
    assert found.num_off.tolist() == [[1]] * NUM_CLASSES  # no other latent has a positive effect
    assert list(found.about()["latents"].values()) == [[number] for number in range(NUM_CLASSES)]
    assert set(found.clean.values()) == {1.0}
    assert (found.values["tpp_threshold_2_unintended_diff_only"] == 0).all()  # in every draw: the examples are paired


def test_latents_that_mean_nothing_change_nothing(outcome, make_sae) -> None:
    rng = torch.Generator().manual_seed(5)
    W_enc, W_dec = torch.randn(D_IN, 200, generator=rng) / 8, torch.randn(200, D_IN, generator=rng) / 8
    found = outcome(make_sae(W_enc, W_dec))
    assert abs(found.values["tpp_threshold_2_total_metric"][0]) < 0.05
    assert found.num_off.tolist() == [[2]] * NUM_CLASSES


def test_mode_reference_draws_other_examples_for_each_accuracy(outcome, data, make_sae) -> None:
    """Here all examples are as easy, so the same scores come out; the draws are its generator's."""
    directions = torch.eye(NUM_CLASSES, D_IN)
    found = outcome(make_sae(directions.T, directions), mode="reference")
    assert found.values["tpp_threshold_2_total_metric"][0] == 0.5
    rng = torch.Generator().manual_seed(6)
    assert not torch.equal(data.signs("test", rng), data.signs("test", rng))


def test_an_sae_of_nothing_has_no_latent_to_switch_off(outcome, make_sae) -> None:
    found = outcome(make_sae(torch.zeros(D_IN, 5), torch.zeros(5, D_IN)))
    assert found.num_off.tolist() == [[0]] * NUM_CLASSES
    assert {float(value[0]) for value in found.values.values()} == {0.0}


def test_a_broken_sae_is_named(data, subject_of, make_sae) -> None:
    broken = subject_of(make_sae(torch.full((D_IN, 3), torch.nan), torch.zeros(3, D_IN)))
    with pytest.raises(CorruptDataError, match=r"by-hand/seed-0.*NaN or Inf"):
        class_differences(broken, data.bench.train, data.bench.concepts.train_signs)


def test_the_score_by_hand() -> None:
    """Three classes, one size, one draw."""
    clean = np.array([[0.9, 0.8, 0.7]])
    without = np.array([[[[0.5, 0.8, 0.6]]], [[[0.9, 0.6, 0.7]]], [[[0.8, 0.8, 0.8]]]])
    found = tpp(clean, without, [20])
    assert [by_class["tpp_threshold_20_intended_diff_only"][0] for by_class in found] == pytest.approx([0.4, 0.2, -0.1])
    assert [by_class["tpp_threshold_20_unintended_diff_only"][0] for by_class in found] == pytest.approx(
        [0.05, 0, 0.05]
    )
    assert [by_class["tpp_threshold_20_total_metric"][0] for by_class in found] == pytest.approx([0.35, 0.2, -0.15])


def test_differences_between_classes_against_means(data, subject_of, make_sae) -> None:
    rng = torch.Generator().manual_seed(7)
    sae = make_sae(torch.randn(D_IN, 20, generator=rng), torch.randn(20, D_IN, generator=rng))
    bench = data.bench
    found = class_differences(subject_of(sae), bench.train, bench.concepts.train_signs)
    pooled = sae.encode(bench.train.x).view(len(LABELS), 2, 20).mean(1)
    for signs, row in zip(bench.concepts.train_signs, found, strict=True):
        assert torch.allclose(row, pooled[signs == 1].mean(0) - pooled[signs == -1].mean(0), atol=1e-6)


def test_examples_of_a_class_are_balanced_and_drawn_evenly_from_the_others() -> None:
    labels = torch.tensor([0] * 30 + [1] * 40 + [2] * 50 + [3] * 60)
    drawn = one_against_rest(labels, 0, torch.Generator().manual_seed(8))
    assert drawn.positive.sum() == 30
    assert len(drawn.rows.unique()) == 60
    assert sorted(labels[drawn.rows[~drawn.positive]].tolist()) == [1] * 10 + [2] * 10 + [3] * 10
    assert torch.equal(labels[drawn.rows] == 0, drawn.positive)
    assert 0 < drawn.positive[:30].sum() < 30  # in no order
    signs = drawn.signs(200)
    assert (signs.bool().sum(), signs.sum()) == (60, 0)


def test_draws_are_the_references() -> None:
    """`prepare_probe_data` of SAEBench 0.6.0, written out with the global generator that it uses."""
    labels = torch.tensor([0] * 10 + [1] * 12 + [2] * 11)
    found = one_against_rest(labels, 1, torch.Generator().manual_seed(9))
    torch.manual_seed(9)
    rows = {label: (labels == label).nonzero()[:, 0] for label in range(3)}
    negative = torch.cat([rows[0][torch.randperm(10)[:6]], rows[2][torch.randperm(11)[:6]]])
    combined = torch.cat([rows[1], negative[torch.randperm(12)[:12]]])
    order = torch.randperm(24)
    assert torch.equal(found.rows, combined[order])
    assert torch.equal(found.positive, order < 12)


def test_accuracies_are_weighted_shares() -> None:
    logits = torch.tensor([[1.0, -1.0], [2.0, 3.0], [-1.0, -2.0], [1.0, 1.0]])
    signs = torch.tensor([[1, -1, -1, 0], [0, 1, 1, -1]], dtype=torch.int8)
    weights = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 3.0, 1.0, 5.0]], dtype=torch.float64)
    expected = [[2 / 3, 1 / 3], [1 / 4, 3 / 9]]
    assert accuracies(logits, signs, weights) == pytest.approx(np.array(expected))
    assert accuracies(logits.expand(5, 2, 4, 2), signs, weights).shape == (5, 2, 2, 2)


def test_unequal_classes_stay_balanced() -> None:
    positive, negative = torch.arange(10), torch.arange(10, 14)
    drawn = Examples.shuffled(positive, negative, torch.Generator().manual_seed(1))
    assert drawn.positive.tolist().count(True) == drawn.positive.tolist().count(False) == 4


def test_mode_reference_draws_and_trains_in_the_references_order() -> None:
    """`train_probe_on_activations` of SAEBench 0.6.0, written out with the global generator, class after class."""
    rng = torch.Generator().manual_seed(10)
    x = {part: torch.randn(len(LABELS), 6, generator=rng) for part in ("train", "test")}
    rows = tuple(Row("text", str(label)) for label in [*LABELS.tolist(), *LABELS.tolist()])
    texts, ours = LabelledTexts(rows, len(LABELS), {}), torch.Generator().manual_seed(11)
    drawn = zip(examples(texts, "train", ours), examples(texts, "test", ours), strict=True)
    found = Concepts.fit(x["train"], x["test"], drawn, "reference", ours)

    torch.manual_seed(11)
    for label in range(NUM_CLASSES):
        data = {}
        for part, acts in x.items():
            others = [acts[other == LABELS] for other in range(NUM_CLASSES) if other != label]
            some = torch.cat([other[torch.randperm(OF_CLASS)[:10]] for other in others])
            combined = torch.cat([acts[label == LABELS], some[torch.randperm(30)]])
            order = torch.randperm(60)
            data[part] = combined[order], (order < 30).float()
        probe = torch.nn.Linear(6, 1)
        optimizer = torch.optim.AdamW(probe.parameters(), lr=1e-3)
        best, weight = 0.0, probe.weight[0].detach()
        for _ in range(20):
            order = torch.randperm(60)
            for start in range(0, 60, 16):
                batch = order[start : start + 16]
                logits = probe(data["train"][0][batch]).squeeze(-1)
                loss = torch.nn.BCEWithLogitsLoss()(logits, data["train"][1][batch]) + 1e-3 * probe.weight.abs().sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            accuracy = float(((probe(data["test"][0]).squeeze(-1) > 0) == data["test"][1].bool()).float().mean())
            if accuracy > best:
                best, weight = accuracy, probe.weight[0].detach().clone()
        assert torch.allclose(found.directions[label], weight, atol=1e-6)
