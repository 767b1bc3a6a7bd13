"""A letter's own latents in hand-made cases, and matching pursuit compared with its definition."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from saepipe.evaluate.metrics.absorption.feature_splits import (
    WordActs,
    assign_folds,
    find_splits,
    num_own_latents,
    reference_splits,
)
from saepipe.evaluate.metrics.absorption.ranking import encode_words, rank_by_probe_weight, rank_by_pursuit
from saepipe.evaluate.sae.subject import Subject

NUM_LETTERS, NUM_WORDS = 4, 400
WHOLE, HALVED, LATENTS = 0, 1, 30
ALL = range(NUM_LETTERS)
"""Letter 0 has one latent, letter 1 one for each half of its words, letters 2 and 3 have none."""


def words(seed: int, num_words: int = NUM_WORDS) -> WordActs:
    """Returns words with letter latents 0, 1 and 2, latent 3 for a single word of letter 0, and 26 random latents."""
    rng = np.random.default_rng(seed)
    letter = rng.integers(NUM_LETTERS, size=num_words)
    acts = rng.random((num_words, LATENTS)) * (rng.random((num_words, LATENTS)) < 0.1)
    half = rng.random(num_words) < 0.5
    acts[:, 0] = (letter == WHOLE) * (1 + rng.random(num_words))
    acts[:, 1] = ((letter == HALVED) & half) * (1 + rng.random(num_words))
    acts[:, 2] = ((letter == HALVED) & ~half) * (1 + rng.random(num_words))
    acts[:, 3] = 0.0
    acts[np.flatnonzero(letter == WHOLE)[0], 3] = 1.0
    return WordActs(csr_array(acts.astype(np.float32)), letter[:, None] == np.arange(NUM_LETTERS))


def stems(num_words: int = NUM_WORDS) -> list[str]:
    return [str(index) for index in range(num_words)]


@pytest.fixture(scope="module")
def result():
    return find_splits(words(0), stems(), words(1), 0.03, ALL)


def test_a_letter_with_one_latent(result) -> None:
    assert result[WHOLE].latents == [0]
    assert result[WHOLE].f1 == pytest.approx(1.0)
    assert result[WHOLE].f1_test == pytest.approx(1.0)


def test_a_letter_split_into_two_latents(result) -> None:
    assert sorted(result[HALVED].latents) == [1, 2]
    assert result[HALVED].f1_by_k[0] == pytest.approx(2 / 3, abs=0.1)
    assert result[HALVED].f1 == pytest.approx(1.0)


def test_only_the_letters_asked_for_are_searched(result) -> None:
    assert find_splits(words(0), stems(), words(1), 0.03, [HALVED]) == [result[HALVED]]


def test_letters_without_latents_have_a_low_f1(result) -> None:
    assert all(result[letter].f1 < 0.5 for letter in (2, 3))


def test_the_reference_agrees_in_clear_cases() -> None:
    """Many words are needed: with 4,096 or fewer, its ranking takes only 50 steps and stays near its start."""
    result = reference_splits(words(0, 40_000), words(1), 0.03, l1_decay=0.01, seed=0)
    assert result[WHOLE].latents == [0]
    assert sorted(result[HALVED].latents) == [1, 2]
    assert result[WHOLE].f1 == result[WHOLE].f1_test == pytest.approx(1.0)


def test_scales_of_latents_do_not_matter() -> None:
    """Their order does not matter either. Scaling a latent and its decoder row inversely leaves the SAE the same."""
    rng = np.random.default_rng(5)
    order, scale = rng.permutation(LATENTS), 10.0 ** rng.uniform(-2, 2, LATENTS)

    def changed(original: WordActs) -> WordActs:
        return WordActs(csr_array((original.acts.toarray() * scale)[:, order].astype(np.float32)), original.labels)

    plain = find_splits(words(0), stems(), words(1), 0.03, ALL)
    moved = find_splits(changed(words(0)), stems(), changed(words(1)), 0.03, ALL)
    assert [[int(order[latent]) for latent in split.latents] for split in moved] == [split.latents for split in plain]
    assert [split.f1_by_k for split in moved] == [pytest.approx(split.f1_by_k) for split in plain]


def test_latents_of_single_words_do_not_belong_to_the_letter() -> None:
    """Each of a letter's words has its own latent: every latent fits its word, none generalises to another."""
    letter = np.arange(60) % 3
    sample = WordActs(csr_array(np.eye(60, dtype=np.float32)), letter[:, None] == np.arange(3))
    result = find_splits(sample, stems(60), sample, 0.03, range(3))
    assert all(split.f1 < 0.6 for split in result)
    assert all(len(split.latents) == 1 for split in result)


def test_latents_that_fit_by_chance_have_a_low_f1() -> None:
    """The best of 300 random latents fits 90 words well, but does not generalise to words that did not choose it."""
    rng = np.random.default_rng(0)
    sample = WordActs(csr_array(rng.random((90, 300), dtype=np.float32)), (np.arange(90) % 3)[:, None] == np.arange(3))
    result = find_splits(sample, stems(90), sample, 0.03, range(3))
    assert np.mean([split.f1 for split in result]) < 0.45
    assert np.mean([split.f1_test for split in result]) > 0.5  # on the words that chose the latents


def test_forms_of_a_word_are_judged_together() -> None:
    """Two forms of each word share one latent: judged apart, each would have the other among the fitted words."""
    letter = np.arange(15) % 3
    acts = csr_array(np.repeat(np.eye(15, dtype=np.float32), 2, axis=0))
    sample = WordActs(acts, np.repeat(letter, 2)[:, None] == np.arange(3))
    apart = find_splits(sample, stems(30), sample, -1.0, range(3))
    together = find_splits(sample, [str(index // 2) for index in range(30)], sample, -1.0, range(3))
    assert max(split.f1 for split in together) < min(split.f1 for split in apart)


def test_folds_spread_every_letter_and_split_no_stem() -> None:
    stems = [f"{letter}{index // 2}" for letter, num_stems in (("a", 12), ("b", 3)) for index in range(2 * num_stems)]
    letters = np.array([stem[0] == "b" for stem in stems])
    fold = assign_folds(letters, stems)
    assert {len({index for index, other in zip(fold, stems, strict=True) if other == stem}) for stem in stems} == {1}
    assert sorted(np.bincount(fold[~letters])) == [4, 4, 4, 6, 6]
    assert sorted(np.bincount(fold[letters], minlength=5)) == [0, 0, 2, 2, 2]


@pytest.mark.parametrize(
    ("f1_by_k", "expected"),
    [
        ([0.5, 0.6, 0.62, 0.9], 2),
        ([0.5, 0.52, 0.9], 1),
        ([0.1, 0.2, 0.3], 3),
        ([0.0, 0.0], 1),
        ([], 0),
        ([0.5, 0.53], 1),
    ],
)
def test_latents_are_added_while_f1_jumps(f1_by_k, expected) -> None:
    num_latents, computed = num_own_latents(iter(f1_by_k), jump=0.03)
    assert num_latents == expected
    assert computed == f1_by_k[: expected + 1]


def test_pursuit_against_its_definition() -> None:
    """Each step picks, of all latents not yet chosen, the one with the largest correlation with the residual."""
    sample = words(2)
    acts = sample.acts.toarray().astype(np.float64)
    for letter, chosen in enumerate(rank_by_pursuit(sample.acts, sample.labels)):
        truth = sample.labels[:, letter].astype(np.float64)
        for step, latent in enumerate(chosen):
            design = np.column_stack([np.ones(NUM_WORDS), acts[:, chosen[:step]]])
            residual = truth - design @ np.linalg.lstsq(design, truth)[0]
            if np.linalg.norm(residual) < 1e-3:  # nothing is left to explain, so the order is arbitrary
                break
            remaining = [j for j in range(LATENTS) if j not in chosen[:step]]
            correlations = [np.corrcoef(acts[:, j], residual)[0, 1] for j in remaining]
            assert latent == remaining[int(np.argmax(correlations))]
    assert len(chosen) == 10


def test_dead_and_constant_latents_are_not_chosen() -> None:
    sample = words(0)
    acts = sample.acts.toarray()
    acts[:, 10:] = 0.0
    acts[:, 9] = 1000.0
    chosen = rank_by_pursuit(csr_array(acts), sample.labels)
    assert all(not {9, *range(10, LATENTS)} & set(latents) for latents in chosen)


def test_the_references_ranking_is_seeded() -> None:
    sample = words(0)
    ranking = rank_by_probe_weight(sample.acts, sample.labels, 0.01, 0)
    assert ranking == rank_by_probe_weight(sample.acts, sample.labels, 0.01, 0)
    assert ranking != rank_by_probe_weight(sample.acts, sample.labels, 0.01, 1)
    assert all(len(set(latents)) == 10 for latents in ranking)


def test_encoding_in_parts_gives_the_activations_of_all_latents(random_sae, monkeypatch) -> None:
    monkeypatch.setattr("saepipe.evaluate.sae.reconstruction.MAX_HELD", 24 * 7)  # seven words at a time
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    subject = Subject(SimpleNamespace(variant="v", seed=0), random_sae, {})  # type: ignore[arg-type]
    assert np.allclose(encode_words(subject, x).toarray(), random_sae.encode(x).numpy(), atol=1e-6)
