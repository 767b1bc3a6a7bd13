"""Which latents are a letter's own: hand-made ones, and matching pursuit against its definition."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from saepipe.evaluate.metrics.absorption.feature_splits import Words, dealt, own_latents, splits, splits_as_reference
from saepipe.evaluate.metrics.absorption.ranking import pursued, weighed, word_latents
from saepipe.evaluate.sae.subject import Subject

NUM_LETTERS, NUM_WORDS = 4, 400
WHOLE, HALVED, LATENTS = 0, 1, 30
"""Letter 0 has one latent, letter 1 a latent for each half of its words, letters 2 and 3 none."""


def words(seed: int, num_words: int = NUM_WORDS) -> Words:
    """Latents 0; 1 and 2; then 27 that fire at random, one word of letter 0 having a latent of its own."""
    rng = np.random.default_rng(seed)
    letter = rng.integers(NUM_LETTERS, size=num_words)
    acts = rng.random((num_words, LATENTS)) * (rng.random((num_words, LATENTS)) < 0.1)
    half = rng.random(num_words) < 0.5
    acts[:, 0] = (letter == WHOLE) * (1 + rng.random(num_words))
    acts[:, 1] = ((letter == HALVED) & half) * (1 + rng.random(num_words))
    acts[:, 2] = ((letter == HALVED) & ~half) * (1 + rng.random(num_words))
    acts[:, 3] = 0.0
    acts[np.flatnonzero(letter == WHOLE)[0], 3] = 1.0
    return Words(csr_array(acts.astype(np.float32)), letter[:, None] == np.arange(NUM_LETTERS))


def stems(num_words: int = NUM_WORDS) -> list[str]:
    return [str(index) for index in range(num_words)]


@pytest.fixture(scope="module")
def found():
    return splits(words(0), stems(), words(1), jump=0.03)


def test_a_letter_with_one_latent(found) -> None:
    assert found[WHOLE].latents == [0]
    assert found[WHOLE].f1 == pytest.approx(1.0)
    assert found[WHOLE].f1_test == pytest.approx(1.0)


def test_a_letter_that_two_latents_share(found) -> None:
    assert sorted(found[HALVED].latents) == [1, 2]
    assert found[HALVED].f1_by_k[0] == pytest.approx(2 / 3, abs=0.1)
    assert found[HALVED].f1 == pytest.approx(1.0)


def test_letters_without_latents_have_a_low_f1(found) -> None:
    assert all(found[letter].f1 < 0.5 for letter in (2, 3))


def test_the_reference_agrees_where_the_answer_is_plain() -> None:
    """With many words: its ranking takes 50 steps in all where there are 4,096 or fewer, and stays near its start."""
    found = splits_as_reference(words(0, 40_000), words(1), 0.03, l1_decay=0.01, seed=0)
    assert found[WHOLE].latents == [0]
    assert sorted(found[HALVED].latents) == [1, 2]
    assert found[WHOLE].f1 == found[WHOLE].f1_test == pytest.approx(1.0)


def test_scales_of_latents_do_not_matter() -> None:
    """Nor their order. A latent's scale is its decoder's: the SAE that is written with other norms is the same."""
    rng = np.random.default_rng(5)
    order, scale = rng.permutation(LATENTS), 10.0 ** rng.uniform(-2, 2, LATENTS)

    def changed(some: Words) -> Words:
        return Words(csr_array((some.acts.toarray() * scale)[:, order].astype(np.float32)), some.labels)

    plain, moved = (
        splits(words(0), stems(), words(1), 0.03),
        splits(changed(words(0)), stems(), changed(words(1)), 0.03),
    )
    assert [[int(order[latent]) for latent in split.latents] for split in moved] == [split.latents for split in plain]
    assert [split.f1_by_k for split in moved] == [pytest.approx(split.f1_by_k) for split in plain]


def test_latents_of_single_words_are_not_the_letters() -> None:
    """Each of a letter's words has a latent of its own: all fit, none says anything of another word."""
    letter = np.arange(60) % 3
    acts = csr_array(np.eye(60, dtype=np.float32))
    some = Words(acts, letter[:, None] == np.arange(3))
    found = splits(some, stems(60), some, jump=0.03)
    assert all(split.f1 < 0.6 for split in found)
    assert all(len(split.latents) == 1 for split in found)


def test_latents_that_fit_by_chance_do_not_pass() -> None:
    """The best of 300 random latents fits 90 words well; on words that did not choose it, it says nothing."""
    rng = np.random.default_rng(0)
    acts = csr_array(rng.random((90, 300), dtype=np.float32))
    some = Words(acts, (np.arange(90) % 3)[:, None] == np.arange(3))
    found = splits(some, stems(90), some, jump=0.03)
    assert np.mean([split.f1 for split in found]) < 0.45
    assert np.mean([split.f1_test for split in found]) > 0.5  # of the very words that chose


def test_forms_of_a_word_are_judged_together() -> None:
    """Two forms of each word fire one latent: by itself each would find the other in the fitted words."""
    letter = np.arange(15) % 3
    acts = csr_array(np.repeat(np.eye(15, dtype=np.float32), 2, axis=0))
    some = Words(acts, np.repeat(letter, 2)[:, None] == np.arange(3))
    apart = splits(some, stems(30), some, jump=-1.0)
    together = splits(some, [str(index // 2) for index in range(30)], some, jump=-1.0)
    assert max(split.f1 for split in together) < min(split.f1 for split in apart)


def test_folds_share_out_every_letter_and_part_no_stem() -> None:
    stems = [f"{letter}{index // 2}" for letter, num_stems in (("a", 12), ("b", 3)) for index in range(2 * num_stems)]
    letters = np.array([stem[0] == "b" for stem in stems])
    fold = dealt(letters, stems)
    assert {len({place for place, stem in zip(fold, stems, strict=True) if stem == one}) for one in stems} == {1}
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
    number, seen = own_latents(iter(f1_by_k), jump=0.03)
    assert number == expected
    assert seen == f1_by_k[: expected + 1]


def test_pursuit_against_its_definition() -> None:
    """Each step: of all latents not chosen, that with the largest correlation with the residual."""
    some = words(2)
    acts = some.acts.toarray().astype(np.float64)
    for letter, chosen in enumerate(pursued(some.acts, some.labels)):
        truth = some.labels[:, letter].astype(np.float64)
        for step, latent in enumerate(chosen):
            design = np.column_stack([np.ones(NUM_WORDS), acts[:, chosen[:step]]])
            residual = truth - design @ np.linalg.lstsq(design, truth)[0]
            if np.linalg.norm(residual) < 1e-3:  # nothing is left to explain, so the order means nothing
                break
            rest = [j for j in range(LATENTS) if j not in chosen[:step]]
            correlations = [np.corrcoef(acts[:, j], residual)[0, 1] for j in rest]
            assert latent == rest[int(np.argmax(correlations))]
    assert len(chosen) == 10


def test_latents_that_never_fire_or_always_alike_are_not_chosen() -> None:
    some = words(0)
    acts = some.acts.toarray()
    acts[:, 10:] = 0.0
    acts[:, 9] = 1000.0
    chosen = pursued(csr_array(acts), some.labels)
    assert all(not {9, *range(10, LATENTS)} & set(latents) for latents in chosen)


def test_the_references_ranking_is_seeded() -> None:
    some = words(0)
    ranking = weighed(some.acts, some.labels, 0.01, 0)
    assert ranking == weighed(some.acts, some.labels, 0.01, 0)
    assert ranking != weighed(some.acts, some.labels, 0.01, 1)
    assert all(len(set(latents)) == 10 for latents in ranking)


def test_all_latents_of_all_words_are_kept_sparse(random_sae, monkeypatch) -> None:
    monkeypatch.setattr("saepipe.evaluate.sae.reconstruction.HELD", 24 * 7)  # seven words at a time
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    subject = Subject(SimpleNamespace(variant="v", seed=0), random_sae, {})  # type: ignore[arg-type]
    assert np.allclose(word_latents(subject, x).toarray(), random_sae.encode(x).numpy(), atol=1e-6)
