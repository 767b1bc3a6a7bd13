"""Absorption of hand-made SAEs with a known answer, and changes that must not affect it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from saepipe.evaluate.metrics.absorption.word_scores import concatenate, word_scores

pytestmark = pytest.mark.quick

LETTER, OTHER = torch.tensor([2.0, 0.0, 0.0]), torch.eye(3)
OWN, CHILD, UNRELATED = 0, 1, 2
W_DEC = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
"""The letter's own latent; a child latent with cosine 0.6; an unrelated latent."""


def scores(x, acts, W_dec=W_DEC, split=(OWN,), **settings):
    result = word_scores(torch.tensor([x]), torch.tensor([acts]), W_dec, LETTER, split, **settings)
    return float(result.fraction[0]), bool(result.full[0])


both_modes = pytest.mark.parametrize("mode", ["fixed", "reference"])


@both_modes
def test_no_absorption_if_the_letters_latent_carries_the_letter(mode) -> None:
    assert scores([3.0, 0.0, 0.0], [3.0, 0.0, 0.0], mode=mode) == (0.0, False)
    assert scores([3.0, 0.0, 1.0], [2.0, 0.0, 1.0], mode=mode) == (0.0, False)  # no latent carries the missing part


@both_modes
def test_full_absorption_if_a_child_carries_the_letter_alone(mode) -> None:
    assert scores([3.0, 4.0, 0.0], [0.0, 5.0, 0.0], mode=mode) == (1.0, True)


@both_modes
def test_half_absorption_if_both_carry_the_same(mode) -> None:
    fraction, full = scores([6.0, 4.0, 0.0], [3.0, 5.0, 0.0], mode=mode)
    assert fraction == pytest.approx(0.5)
    assert not full


@both_modes
def test_excess_of_the_child_is_not_absorbed(mode) -> None:
    """M = 3, a = 4, A = 3: only the missing 1 counts as absorbed."""
    assert scores([4.0, 0.0, 0.0], [3.0, 5.0, 0.0], mode=mode)[0] == pytest.approx(1 / (1 + 3))


@both_modes
def test_a_small_share_does_not_count(mode) -> None:
    """The child carries 0.6 times its activation of a = 6; the limit of 0.4 is reached at an activation of 4."""
    assert scores([6.0, 0.0, 0.0], [0.0, 3.9, 0.0], mode=mode) == (0.0, False)
    assert scores([6.0, 0.0, 0.0], [0.0, 4.1, 0.0], mode=mode) == (1.0, True)


@both_modes
def test_a_latent_along_another_direction_does_not_absorb(mode) -> None:
    """Cosine 0.05: below the fraction's limit of 0.1, above that of full absorption."""
    W_dec = torch.tensor([[1.0, 0.0, 0.0], [0.05, (1 - 0.05**2) ** 0.5, 0.0], [0.0, 0.0, 1.0]])
    assert scores([1.0, 0.0, 0.0], [0.0, 10.0, 0.0], W_dec, mode=mode) == (0.0, True)
    W_dec[CHILD] = torch.tensor([0.02, (1 - 0.02**2) ** 0.5, 0.0])
    assert scores([1.0, 0.0, 0.0], [0.0, 40.0, 0.0], W_dec, mode=mode) == (0.0, False)


@both_modes
def test_at_most_three_latents_absorb_together(mode) -> None:
    W_dec = torch.tensor([[1.0, 0.0, 0.0]] * 6)
    assert scores([10.0, 0.0, 0.0], [0.0, 2.0, 1.0, 1.0, 0.0, 0.0], W_dec, mode=mode) == (1.0, False)
    assert scores([10.0, 0.0, 0.0], [0.0, 1.3, 1.3, 1.3, 1.3, 1.3], W_dec, mode=mode) == (0.0, False)


@both_modes
def test_each_of_the_letters_latents_may_carry_the_letter(mode) -> None:
    assert scores([3.0, 4.0, 0.0], [0.0, 5.0, 0.0], split=(OWN, CHILD), mode=mode) == (0.0, False)
    assert scores([3.0, 4.0, 0.0], [1e-7, 5.0, 0.0], mode=mode)[1] is False


def test_decoder_norms_matter_only_to_the_reference() -> None:
    """Halved activations with doubled decoder rows are the same SAE."""
    acts = [1.5, 2.5, 0.0]
    assert scores([6.0, 4.0, 0.0], acts, 2 * W_DEC)[0] == pytest.approx(0.5)
    assert scores([12.0, 4.0, 0.0], acts, 2 * W_DEC, mode="reference")[0] == 0.0


@both_modes
@pytest.mark.parametrize("x", [[-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
def test_no_absorption_without_a_positive_projection(x, mode) -> None:
    assert scores(x, [0.0, 5.0, 0.0], mode=mode) == (0.0, False)


@both_modes
def test_against_the_definition_word_by_word(mode) -> None:
    rng = torch.Generator().manual_seed(0)
    W_dec = torch.randn(40, 6, generator=rng)
    W_dec = W_dec / W_dec.norm(dim=1, keepdim=True)
    acts = torch.randn(300, 40, generator=rng).relu() * (torch.rand(300, 40, generator=rng) < 0.15)
    x = acts @ W_dec + 0.3 * torch.randn(300, 6, generator=rng)
    direction = torch.randn(6, generator=rng)
    result = word_scores(x, acts, W_dec, direction, [4, 7], mode=mode)
    expected = [by_definition(x[i], acts[i], W_dec, direction, [4, 7]) for i in range(300)]
    assert result.fraction.tolist() == pytest.approx([fraction for fraction, _ in expected], abs=1e-5)
    assert result.full.tolist() == [full for _, full in expected]
    assert 0 < np.mean([full for _, full in expected]) < 1
    assert any(0 < fraction < 1 for fraction, _ in expected)


def test_the_order_of_the_latents_does_not_matter() -> None:
    rng = torch.Generator().manual_seed(1)
    W_dec, acts = torch.randn(20, 5, generator=rng), torch.randn(50, 20, generator=rng).relu()
    x, direction, order = acts @ W_dec, torch.randn(5, generator=rng), torch.randperm(20, generator=rng)
    result = word_scores(x, acts, W_dec, direction, [3])
    reordered = word_scores(x, acts[:, order], W_dec[order], direction, [int((order == 3).nonzero())])
    assert torch.allclose(result.fraction, reordered.fraction, atol=1e-6)
    assert torch.equal(result.full, reordered.full)
    assert torch.equal(result.top, order[reordered.top])


def test_the_length_of_the_direction_does_not_matter() -> None:
    x, acts = torch.tensor([[6.0, 4.0, 0.0]]), torch.tensor([[3.0, 5.0, 0.0]])
    assert word_scores(x, acts, W_DEC, 100 * LETTER, [OWN]).fraction[0] == pytest.approx(0.5)


def test_words_may_be_scored_in_parts() -> None:
    rng = torch.Generator().manual_seed(2)
    W_dec, acts = torch.randn(20, 5, generator=rng), torch.randn(50, 20, generator=rng).relu()
    x, direction = acts @ W_dec, torch.randn(5, generator=rng)
    whole = word_scores(x, acts, W_dec, direction, [3])
    parts = concatenate(
        word_scores(x[at], acts[at], W_dec, direction, [3]) for at in (slice(0, 7), slice(7, 7), slice(7, 50))
    )
    assert torch.allclose(parts.fraction, whole.fraction, atol=1e-6)
    assert torch.equal(parts.full, whole.full)
    assert torch.equal(parts.top, whole.top)


def by_definition(x: Tensor, acts: Tensor, W_dec: Tensor, direction: Tensor, split: list[int]) -> tuple[float, bool]:
    """Returns fraction and full absorption of one word, in plain Python, for decoder rows of unit norm."""
    p = (direction / direction.norm()).tolist()
    projections = [sum(w * q for w, q in zip(row, p, strict=True)) for row in W_dec.tolist()]
    parts = [f * c for f, c in zip(acts.tolist(), projections, strict=True)]
    a = sum(value * q for value, q in zip(x.tolist(), p, strict=True))
    main = sum(parts[j] for j in split)
    rest = [part for j, part in enumerate(parts) if j not in split and projections[j] >= 0.1 and part > 0]
    absorbed = sum(sorted(rest)[-3:])
    if a <= 0:
        return 0.0, False
    if main >= a or absorbed < 0.4 * a:
        fraction = 0.0
    elif main <= 0:
        fraction = 1.0
    else:
        taken = min(absorbed, a - main)
        fraction = taken / (taken + main)
    top = max(range(len(parts)), key=parts.__getitem__)
    full = all(acts[j] == 0 for j in split) and projections[top] >= 0.025 and parts[top] >= 0.4 * a
    return fraction, full
