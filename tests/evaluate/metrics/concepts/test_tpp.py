"""TPP on cases with a known answer: scores by hand, one latent per class, meaningless latents."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.metrics.concepts.perturb import accuracies, bootstrap_weights, class_differences
from saepipe.evaluate.metrics.concepts.probe_setup import ConceptProbes, ProbeSetup
from saepipe.evaluate.metrics.concepts.tpp import TPP, ProbedDataset, class_examples, tpp_scores
from saepipe.evaluate.texts.binary_questions import BinaryExamples, one_vs_rest
from saepipe.evaluate.texts.labelled_rows import LabelledRow
from saepipe.evaluate.texts.pooled import TextActivations
from saepipe.evaluate.texts.sample import LabelledTexts

D_IN, NUM_CLASSES, TEXTS_PER_CLASS = 64, 4, 30
LABELS = torch.arange(NUM_CLASSES).repeat_interleave(TEXTS_PER_CLASS)


def texts_with_directions(labels: torch.Tensor, seed: int) -> TextActivations:
    """Returns two tokens per text: 1 in the coordinate of its class, little noise in the coordinates of no class."""
    rng = torch.Generator().manual_seed(seed)
    x = one_hot(labels.repeat_interleave(2), D_IN).float()
    x[:, NUM_CLASSES:] += 0.1 * torch.randn(len(x), D_IN - NUM_CLASSES, generator=rng)
    return TextActivations(x, 2 * torch.arange(len(labels) + 1), torch.ones(len(labels), dtype=torch.int64))


@pytest.fixture
def dataset() -> ProbedDataset:
    """A dataset whose probes read the coordinate of their class."""
    rows = tuple(LabelledRow("text", f"class {label}") for label in [*LABELS.tolist(), *LABELS.tolist()])
    texts = LabelledTexts(rows, len(LABELS), {})
    rng = torch.Generator().manual_seed(0)
    signs = [torch.stack([e.signs(len(LABELS)) for e in class_examples(texts, p, rng)]) for p in ("train", "test")]
    probes = ConceptProbes(*signs, torch.eye(NUM_CLASSES, D_IN), torch.full((NUM_CLASSES,), -0.5))
    setup = ProbeSetup(probes, texts_with_directions(LABELS, 1), texts_with_directions(LABELS, 2))
    weights = bootstrap_weights(len(LABELS), 200, seed=3)
    clean = accuracies(probes.logits(setup.test.pooled()), probes.test_signs, weights)
    return ProbedDataset("by hand", texts, setup, weights, clean)


@pytest.fixture
def outcome(dataset, subject_of):
    def measure(sae, mode: str = "fixed", n: int = 2):
        return TPP(n_values=(n,))._outcome(subject_of(sae), dataset, mode, torch.Generator().manual_seed(4))

    return measure


def test_one_latent_per_class_carries_all_of_its_probe(outcome, make_sae) -> None:
    """Without its latent a class's probe says no to every text, so it is right on half; no other probe changes."""
    directions = torch.eye(NUM_CLASSES, D_IN)
    result = outcome(make_sae(directions.T, directions))
    assert {key: value[0] for key, value in result.scores.items()} == {
        "tpp_threshold_2_total_metric": 0.5,
        "tpp_threshold_2_intended_diff_only": 0.5,
        "tpp_threshold_2_unintended_diff_only": 0.0,
    }
    assert result.num_ablated.tolist() == [[1]] * NUM_CLASSES  # no other latent has a positive effect
    assert list(result.summary()["latents"].values()) == [[number] for number in range(NUM_CLASSES)]
    assert set(result.clean_accuracies.values()) == {1.0}
    assert (result.scores["tpp_threshold_2_unintended_diff_only"] == 0).all()  # resampled too: examples are paired


def test_meaningless_latents_change_nothing(outcome, make_sae) -> None:
    rng = torch.Generator().manual_seed(5)
    W_enc, W_dec = torch.randn(D_IN, 200, generator=rng) / 8, torch.randn(200, D_IN, generator=rng) / 8
    result = outcome(make_sae(W_enc, W_dec))
    assert abs(result.scores["tpp_threshold_2_total_metric"][0]) < 0.05
    assert result.num_ablated.tolist() == [[2]] * NUM_CLASSES


def test_mode_reference_samples_other_examples_for_each_accuracy(outcome, dataset, make_sae) -> None:
    """All examples here are equally easy, so the scores are the same; only the samples differ."""
    directions = torch.eye(NUM_CLASSES, D_IN)
    result = outcome(make_sae(directions.T, directions), mode="reference")
    assert result.scores["tpp_threshold_2_total_metric"][0] == 0.5
    rng = torch.Generator().manual_seed(6)
    assert not torch.equal(dataset.signs("test", rng), dataset.signs("test", rng))


def test_an_sae_of_zeros_has_no_latent_to_ablate(outcome, make_sae) -> None:
    result = outcome(make_sae(torch.zeros(D_IN, 5), torch.zeros(5, D_IN)))
    assert result.num_ablated.tolist() == [[0]] * NUM_CLASSES
    assert {float(score[0]) for score in result.scores.values()} == {0.0}


def test_error_names_a_broken_sae(dataset, subject_of, make_sae) -> None:
    broken = subject_of(make_sae(torch.full((D_IN, 3), torch.nan), torch.zeros(3, D_IN)))
    with pytest.raises(CorruptDataError, match=r"by-hand/seed-0.*NaN or Inf"):
        class_differences(broken, dataset.setup.train, dataset.setup.probes.train_signs)


def test_scores_by_hand() -> None:
    """Three classes, one size, one resample."""
    clean = np.array([[0.9, 0.8, 0.7]])
    ablated = np.array([[[[0.5, 0.8, 0.6]]], [[[0.9, 0.6, 0.7]]], [[[0.8, 0.8, 0.8]]]])
    scores = tpp_scores(clean, ablated, [20])
    assert [row["tpp_threshold_20_intended_diff_only"][0] for row in scores] == pytest.approx([0.4, 0.2, -0.1])
    assert [row["tpp_threshold_20_unintended_diff_only"][0] for row in scores] == pytest.approx([0.05, 0, 0.05])
    assert [row["tpp_threshold_20_total_metric"][0] for row in scores] == pytest.approx([0.35, 0.2, -0.15])


def test_class_differences_against_means(dataset, subject_of, make_sae) -> None:
    rng = torch.Generator().manual_seed(7)
    sae = make_sae(torch.randn(D_IN, 20, generator=rng), torch.randn(20, D_IN, generator=rng))
    setup = dataset.setup
    differences = class_differences(subject_of(sae), setup.train, setup.probes.train_signs)
    pooled = sae.encode(setup.train.x).view(len(LABELS), 2, 20).mean(1)
    for signs, row in zip(setup.probes.train_signs, differences, strict=True):
        assert torch.allclose(row, pooled[signs == 1].mean(0) - pooled[signs == -1].mean(0), atol=1e-6)


def test_examples_are_balanced_and_sampled_evenly_from_the_other_classes() -> None:
    labels = torch.tensor([0] * 30 + [1] * 40 + [2] * 50 + [3] * 60)
    examples = one_vs_rest(labels, 0, torch.Generator().manual_seed(8))
    assert examples.positive.sum() == 30
    assert len(examples.rows.unique()) == 60
    assert sorted(labels[examples.rows[~examples.positive]].tolist()) == [1] * 10 + [2] * 10 + [3] * 10
    assert torch.equal(labels[examples.rows] == 0, examples.positive)
    assert 0 < examples.positive[:30].sum() < 30  # shuffled
    signs = examples.signs(200)
    assert (signs.bool().sum(), signs.sum()) == (60, 0)


def test_sampling_equals_the_references() -> None:
    """Against `prepare_probe_data` of SAEBench 0.6.0, written out with the global generator that it uses."""
    labels = torch.tensor([0] * 10 + [1] * 12 + [2] * 11)
    examples = one_vs_rest(labels, 1, torch.Generator().manual_seed(9))
    torch.manual_seed(9)
    rows = {label: (labels == label).nonzero()[:, 0] for label in range(3)}
    negative = torch.cat([rows[0][torch.randperm(10)[:6]], rows[2][torch.randperm(11)[:6]]])
    combined = torch.cat([rows[1], negative[torch.randperm(12)[:12]]])
    order = torch.randperm(24)
    assert torch.equal(examples.rows, combined[order])
    assert torch.equal(examples.positive, order < 12)


def test_accuracies_are_weighted_shares() -> None:
    logits = torch.tensor([[1.0, -1.0], [2.0, 3.0], [-1.0, -2.0], [1.0, 1.0]])
    signs = torch.tensor([[1, -1, -1, 0], [0, 1, 1, -1]], dtype=torch.int8)
    weights = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 3.0, 1.0, 5.0]], dtype=torch.float64)
    expected = [[2 / 3, 1 / 3], [1 / 4, 3 / 9]]
    assert accuracies(logits, signs, weights) == pytest.approx(np.array(expected))
    assert accuracies(logits.expand(5, 2, 4, 2), signs, weights).shape == (5, 2, 2, 2)


def test_unequal_classes_stay_balanced() -> None:
    positive, negative = torch.arange(10), torch.arange(10, 14)
    examples = BinaryExamples.balanced(positive, negative, torch.Generator().manual_seed(1))
    assert examples.positive.tolist().count(True) == examples.positive.tolist().count(False) == 4


def test_mode_reference_samples_and_trains_in_the_references_order() -> None:
    """Against `train_probe_on_activations` of SAEBench 0.6.0, written out with the global generator, class by class."""
    rng = torch.Generator().manual_seed(10)
    x = {part: torch.randn(len(LABELS), 6, generator=rng) for part in ("train", "test")}
    rows = tuple(LabelledRow("text", str(label)) for label in [*LABELS.tolist(), *LABELS.tolist()])
    texts, generator = LabelledTexts(rows, len(LABELS), {}), torch.Generator().manual_seed(11)
    pairs = zip(class_examples(texts, "train", generator), class_examples(texts, "test", generator), strict=True)
    probes = ConceptProbes.fit(x["train"], x["test"], pairs, "reference", generator)

    torch.manual_seed(11)
    for label in range(NUM_CLASSES):
        data = {}
        for part, acts in x.items():
            others = [acts[other == LABELS] for other in range(NUM_CLASSES) if other != label]
            negative = torch.cat([other[torch.randperm(TEXTS_PER_CLASS)[:10]] for other in others])
            combined = torch.cat([acts[label == LABELS], negative[torch.randperm(30)]])
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
        assert torch.allclose(probes.directions[label], weight, atol=1e-6)
