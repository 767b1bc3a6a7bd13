"""SCR on cases with a known answer: scores by hand, latents that are the attribute, and sampled texts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from saepipe.data.errors import ConfigError
from saepipe.evaluate.metrics.concepts.perturb import accuracies, bootstrap_weights
from saepipe.evaluate.metrics.concepts.probe_setup import ConceptProbes, ProbeSetup
from saepipe.evaluate.metrics.concepts.scr import REFERENCE, SCR, ProbedPair, _misled_accuracies, scr_scores
from saepipe.evaluate.metrics.concepts.spurious_pairs import PairTexts, SpuriousPairsConfig, sample_pairs
from saepipe.evaluate.texts.pooled import TextActivations
from saepipe.evaluate.texts.sample import Sampling

D_IN, Q = 64, 20


def pair_texts(q: int = Q) -> PairTexts:
    """Returns texts that spell their class, then their attribute."""
    texts = tuple(["++"] * 2 * q + ["-+"] * q + ["+-"] * q + ["--"] * 2 * q)
    return PairTexts("by hand", texts, texts)


def activations_of(texts: tuple[str, ...], seed: int) -> TextActivations:
    """Returns one token per text: coordinate 0 is the class, coordinate 1 the attribute, the others noise."""
    rng = torch.Generator().manual_seed(seed)
    x = 0.1 * torch.randn(len(texts), D_IN, generator=rng)
    x[:, 0] = torch.tensor([1.0 if text[0] == "+" else -1.0 for text in texts])
    x[:, 1] = torch.tensor([1.0 if text[1] == "+" else -1.0 for text in texts])
    return TextActivations(x, torch.arange(len(texts) + 1), torch.ones(len(texts), dtype=torch.int64))


@pytest.fixture
def pair() -> ProbedPair:
    """A pair whose spurious probe weighs the attribute twice as much as the class."""
    texts, rng = pair_texts(), torch.Generator().manual_seed(0)
    signs = [torch.stack([e.signs(6 * Q) for e in texts.examples(part, rng)]) for part in ("train", "test")]
    directions = torch.zeros(3, D_IN)
    directions[0, 0] = directions[1, 1] = directions[2, 0] = 1.0
    directions[2, 1] = 2.0
    probes = ConceptProbes(*signs, directions, torch.zeros(3))
    setup = ProbeSetup(probes, activations_of(texts.train, 1), activations_of(texts.test, 2))
    weights = bootstrap_weights(6 * Q, 200, seed=3)
    logits = probes.logits(setup.test.pooled())
    clean = accuracies(logits, probes.test_signs, weights)[..., :2]
    return ProbedPair("by hand", "by hand_scr_a_b", setup, weights, clean, _misled_accuracies(logits, setup, weights))


@pytest.fixture
def outcome(pair, subject_of):
    return lambda sae, mode="fixed": SCR(n_values=(2,))._outcome(subject_of(sae), pair, mode)


def two_latents_per_concept() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns encoder and decoder for coordinates 0 and 1, with a latent for either sign of each."""
    directions = torch.zeros(4, D_IN)
    directions[0, 0], directions[1, 0], directions[2, 1], directions[3, 1] = 1.0, -1.0, 1.0, -1.0
    return directions.T, directions


def test_ablating_the_attribute_recovers_all_accuracy(outcome, pair, make_sae) -> None:
    """The misled probe is right on half of the concept\'s examples, without the attribute on all of them."""
    assert pair.clean[0].tolist() == [1.0, 1.0]
    assert pair.misled[0].tolist() == [0.5, 1.0]
    result = outcome(make_sae(*two_latents_per_concept()))
    assert result.scores["scr_dir1_threshold_2"][0] == result.scores["scr_metric_threshold_2"][0] == 1.0
    assert "recover" in result.scores["scr_dir2_threshold_2"]
    assert result.num_ablated.tolist() == [[2], [2]]
    assert {target: set(latents) for target, latents in result.summary()["latents"].items()} == {
        "attribute": {2, 3},
        "concept": {0, 1},
    }


def test_mode_reference_scores_0_if_there_is_nothing_to_recover(outcome, make_sae) -> None:
    result = outcome(make_sae(*two_latents_per_concept()), mode="reference")
    assert result.scores["scr_dir2_threshold_2"][0] == 0.0
    assert result.scores["scr_metric_threshold_2"][0] == 1.0


def test_meaningless_latents_recover_nothing(outcome, make_sae) -> None:
    rng = torch.Generator().manual_seed(5)
    W_enc, W_dec = torch.randn(D_IN, 200, generator=rng) / 8, torch.randn(200, D_IN, generator=rng) / 8
    result = outcome(make_sae(W_enc, W_dec))
    assert abs(result.scores["scr_metric_threshold_2"][0]) < 0.1


def test_examples_of_the_three_questions() -> None:
    """Against the definition, text by text."""
    texts, rng = pair_texts(), torch.Generator().manual_seed(1)
    concept, attribute, spurious = texts.examples("train", rng)
    for examples, expected in (
        (concept, {("++", True): Q, ("+-", True): Q, ("-+", False): Q, ("--", False): Q}),
        (attribute, {("++", True): Q, ("-+", True): Q, ("+-", False): Q, ("--", False): Q}),
        (spurious, {("++", True): 2 * Q, ("--", False): 2 * Q}),
    ):
        labels = [texts.train[row] for row in examples.rows.tolist()]
        assert Counter(zip(labels, examples.positive.tolist(), strict=True)) == expected
        assert len(set(examples.rows.tolist())) == 4 * Q


def test_scores_by_hand() -> None:
    """The spurious probe is worse on the concept, so the metric is the score of that direction."""
    clean, misled = np.array([[0.9, 0.8]]), np.array([[0.6, 0.7]])
    scores = scr_scores(clean, misled, np.array([[0.75], [0.96]]), np.array([[0.65], [0.7]]), [5, 10], "fixed")
    assert {key: score[0] for key, score in scores.items()} == pytest.approx(
        {
            "scr_dir1_threshold_5": 0.5,
            "scr_dir1_threshold_10": 1.2,
            "scr_dir2_threshold_5": -0.5,
            "scr_dir2_threshold_10": 0.0,
            "scr_metric_threshold_5": 0.5,
            "scr_metric_threshold_10": 1.2,
        }
    )
    swapped = scr_scores(clean[:, ::-1], misled[:, ::-1], np.array([[0.65]]), np.array([[0.75]]), [5], "fixed")
    assert swapped["scr_metric_threshold_5"][0] == swapped["scr_dir2_threshold_5"][0] == pytest.approx(0.5)


def test_undefined_scores_have_a_reason() -> None:
    clean, misled, ablated = np.array([[0.9, 0.7]]), np.array([[0.7, 0.7]]), np.array([[0.8]])
    fixed = scr_scores(clean, misled, ablated, ablated, [5], "fixed")
    assert "probe is 0.700" in fixed["scr_dir2_threshold_5"]
    assert "neither direction" in fixed["scr_metric_threshold_5"]
    reference = scr_scores(clean, misled, ablated, ablated, [5], "reference")
    assert reference["scr_dir2_threshold_5"].tolist() == [0.0]
    assert isinstance(reference["scr_metric_threshold_5"], str)  # undefined in the reference too


def test_a_gap_that_may_be_noise_is_not_divided_by() -> None:
    """The gap is 0.01 in the sample itself and 0 in one of ten resamples."""
    clean, misled = np.full((201, 2), 0.9), np.full((201, 2), [0.5, 0.89])
    misled[1::10, 1] = 0.9
    ablated = np.full((1, 201), 0.9)
    scores = scr_scores(clean, misled, ablated, ablated, [5], "fixed")
    assert scores["scr_dir1_threshold_5"].tolist() == [1.0] * 201
    assert "noise" in scores["scr_dir2_threshold_5"]


def write_rows(path: Path, num: int) -> SpuriousPairsConfig:
    """Writes every kind of text `num` times, with a class that is not asked for, to a training and a test file."""
    for part in ("train", "test"):
        lines = [
            {"text": f"{part} {label} {attribute} {number}", "job": label, "sex": attribute}
            for number in range(num)
            for label in ("nurse", "chef", "poet")
            for attribute in (0, 1)
        ]
        (path / f"{part}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = {"source": str(path / "train.jsonl"), "test": str(path / "test.jsonl")}
    data = {"name": "by hand", "label": "job", "attribute": "sex", **files}
    return SpuriousPairsConfig.parse({"data": data, "pairs": [["chef", "nurse"]], "attributes": ["0", "1"]})


def test_mode_reference_takes_the_first_rows(tmp_path: Path) -> None:
    config = write_rows(tmp_path, 30)
    [pair] = sample_pairs(config, Sampling(40, 20, 42, "reference"))
    kinds = (("chef", 0, 20), ("nurse", 0, 10), ("chef", 1, 10), ("nurse", 1, 20))
    assert list(pair.train) == [f"train {label} {sex} {n}" for label, sex, num in kinds for n in range(num)]
    assert len(pair.test) == 30
    assert pair.title == "by hand_scr_chef_nurse"


def test_mode_fixed_samples_by_the_seed_and_takes_as_many_as_there_are(tmp_path: Path) -> None:
    config = write_rows(tmp_path, 30)
    [pair] = sample_pairs(config, Sampling(40, 4000, 42, "fixed"))
    assert [pair] == sample_pairs(config, Sampling(40, 4000, 42, "fixed"))
    assert [pair] != sample_pairs(config, Sampling(40, 4000, 43, "fixed"))
    kinds = [tuple(text.split()[1:3]) for text in pair.train]
    assert kinds == [("chef", "0")] * 20 + [("nurse", "0")] * 10 + [("chef", "1")] * 10 + [("nurse", "1")] * 20
    assert len(pair.test) == 6 * 15  # 30 rows of each kind, and two kinds need 2 q
    assert len(set(pair.texts)) == 60 + 90


def test_too_few_rows_are_an_error(tmp_path: Path) -> None:
    config = write_rows(tmp_path, 30)
    with pytest.raises(ConfigError, match="too few texts to train on: 30, 30, 30, 30, of"):
        sample_pairs(config, Sampling(400, 100, 42, "reference"))
    wrong = SpuriousPairsConfig.parse(config.to_dict() | {"attributes": ["0", "female"]})
    with pytest.raises(ConfigError, match="too few texts to train on: 30, 30, 0, 0, of"):
        sample_pairs(wrong, Sampling(40, 20, 42, "fixed"))


def test_pairs_need_an_attribute_column(tmp_path: Path) -> None:
    config = write_rows(tmp_path, 1).to_dict()
    config["data"]["attribute"] = None
    with pytest.raises(ConfigError, match="no attribute column"):
        SpuriousPairsConfig.parse(config)


def test_pairs_of_the_reference() -> None:
    bios, amazon = REFERENCE
    assert bios.title(bios.pairs[0]) == "LabHC/bias_in_bios_class_set1_scr_professor_nurse"
    assert bios.pairs == (("21", "13"), ("1", "11"), ("25", "22"), ("2", "26"))
    assert amazon.title(amazon.pairs[3]).endswith("_scr_Industrial_and_Scientific_Toys_and_Games")
    assert (bios.data.attribute, amazon.data.attribute) == ("gender", "rating")
