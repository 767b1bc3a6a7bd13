"""Dictionaries by chance: the SAE behind an orthogonal map, and random latents as often active as its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from saepipe.evaluate.metrics.stability.chance_dictionaries import Axes, Flipped, Random
from saepipe.evaluate.metrics.stability.dictionary import Dictionary
from saepipe.evaluate.metrics.stability.latent_acts import LatentActs
from saepipe.evaluate.metrics.stability.principal_axes import Moments, PrincipalAxes
from saepipe.train.sae.sparse_acts import SparseActs

pytestmark = pytest.mark.quick

D = 16


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def axes_of(x: torch.Tensor) -> PrincipalAxes:
    moments = Moments()
    moments.add(x)
    return moments.principal_axes()


@pytest.fixture
def x() -> torch.Tensor:
    return 1 + torch.randn(3000, D, generator=generator(8)) @ torch.randn(D, D, generator=generator(9))


@pytest.fixture
def own(random_sae, x: torch.Tensor) -> Dictionary:
    return Dictionary.of(random_sae, LatentActs.of([SparseActs.of(random_sae.encode(x))]))


def test_a_dictionary_leaves_out_the_dead(random_sae, own: Dictionary) -> None:
    assert own.index.tolist() == list(range(23))  # the last one is dead
    np.testing.assert_allclose(own.decoder, normalize(random_sae.W_dec[:23], dim=1), atol=1e-6)
    np.testing.assert_allclose(own.encoder, normalize(random_sae.W_enc.T[:23], dim=1), atol=1e-6)


def test_a_flipped_sae_is_the_sae_behind_an_orthogonal_map(
    random_sae, subject_of, own: Dictionary, x: torch.Tensor
) -> None:
    """Its activations are those of a network whose encoder columns are mapped, about the data's mean."""
    axes = axes_of(x)
    flipped = Flipped.draw(subject_of(random_sae), own, Axes(axes, axes), generator())
    Q = axes.axes.T @ flipped.signs_read.diag() @ axes.axes
    np.testing.assert_allclose(Q @ Q, torch.eye(D), atol=1e-5)
    given = LatentActs.of([flipped.encode(x)])
    behind = flipped.dictionary(given)
    np.testing.assert_allclose(behind.decoder, own.decoder @ Q, atol=1e-5)
    np.testing.assert_allclose(behind.encoder, own.encoder @ Q, atol=1e-5)
    moved = ((x - axes.mean) @ Q @ random_sae.W_enc + axes.mean @ random_sae.W_enc + random_sae.b_enc).relu()
    np.testing.assert_allclose(given.entries.toarray(), moved, atol=1e-3)
    assert behind.acts.scaled.shape == (3000, 23)
    assert behind.density is own.density


def test_random_latents_are_as_often_active_as_those_that_they_stand_for(own: Dictionary, x: torch.Tensor) -> None:
    """Normal rows meet the thresholds of normal rows."""
    axes = axes_of(x)
    random = Random.draw(own, Axes(axes, axes), generator())
    acts = LatentActs.of([random.encode(x)])
    drawn = random.dictionary(acts)
    assert len(drawn) == len(own)
    np.testing.assert_allclose(acts.density, own.density, atol=0.04)
    assert own.density.std() > 0.1
    assert drawn.decoder is random.decoder
    np.testing.assert_allclose(drawn.encoder, drawn.decoder)


def test_a_transcoders_decoder_keeps_to_what_it_writes(
    random_sae, subject_of, own: Dictionary, x: torch.Tensor
) -> None:
    y = torch.randn(3000, 5, generator=generator(11)) * torch.tensor([9.0, 1, 1, 1, 1])
    axes = Axes(axes_of(x), axes_of(y))
    wide = Random.draw(own, axes, generator())
    assert wide.decoder.shape == (23, 5)
    assert wide.decoder[:, 0].abs().mean() > 0.8  # the channel of the largest variance
    transcoder = replace(own, decoder=wide.decoder)
    signs = axes.read.random_signs(generator())
    for sign in (1.0, -1.0):
        flipped = Flipped(subject_of(random_sae), transcoder, axes, signs, torch.full((5,), sign))
        behind = flipped.dictionary(LatentActs.of([flipped.encode(x)]))
        np.testing.assert_allclose(behind.decoder, sign * wide.decoder, atol=1e-5)
        np.testing.assert_allclose(behind.encoder, axes.read.flip_directions(own.encoder, signs), atol=1e-6)
