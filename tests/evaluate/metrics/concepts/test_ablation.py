"""Ablation in closed form against encoding, zeroing latents, decoding and pooling; attribution and selection."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from saepipe.data.errors import ConfigError
from saepipe.evaluate.metrics.concepts.ablation import (
    ablated_logits,
    ablated_pooled,
    attribution,
    latent_sums,
    latents_to_ablate,
)
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.texts.pooled import TextActivations
from saepipe.train.rundir.load import SAE
from saepipe.train.sae.base import Architecture
from saepipe.train.sae.gated import Gated
from saepipe.train.sae.jumprelu import JumpReLU
from saepipe.train.sae.relu import ReLU
from saepipe.train.sae.topk import TopK

D_IN, D_SAE = 12, 40
ARCHITECTURES = [ReLU(d_sae=D_SAE), TopK(d_sae=D_SAE, k=7), JumpReLU(d_sae=D_SAE), Gated(d_sae=D_SAE)]
EACH_ARCHITECTURE = pytest.mark.parametrize("settings", ARCHITECTURES, ids=lambda settings: settings.name)


def subject_with(settings: Architecture) -> Subject:
    """Returns an SAE with random biases, so that some latents are active on the zero vector."""
    rng = torch.Generator().manual_seed(5)
    params = {name: value.clone() for name, value in settings.init(D_IN, 1.0, rng).items()}
    for name, value in params.items():
        if name not in ("W_enc", "W_dec"):
            params[name] = (value + torch.randn(value.shape, generator=rng)).to(value.dtype)
    if "threshold" in params:
        params["threshold"] = params["threshold"].abs()
    run: Any = SimpleNamespace(variant="by-hand", seed=0)
    return Subject(run, SAE(settings, params, {}), {})


@pytest.fixture
def activations() -> TextActivations:
    """Six texts of 1 to 9 tokens, with 0 to 5 special positions each."""
    rng = torch.Generator().manual_seed(6)
    lengths = torch.tensor([3, 9, 1, 4, 6, 2])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    x = 2 * torch.randn(int(lengths.sum()), D_IN, generator=rng)
    return TextActivations(x, offsets, num_special=torch.tensor([5, 0, 3, 1, 2, 4]))


def ablated_by_brute_force(subject: Subject, activations: TextActivations, selected: torch.Tensor, padded: bool):
    """Returns (num_texts, d_in): each text on its own, with the latents zeroed token by token."""
    rows = []
    for start, stop, special in zip(
        activations.offsets[:-1], activations.offsets[1:], activations.num_special, strict=True
    ):
        x = activations.x[start:stop]
        if padded:
            x = torch.cat([x, torch.zeros(special, D_IN)])
        acts = subject.sae.encode(x)
        error = x - subject.sae.decode(acts)
        acts[:, selected] = 0.0
        rows.append((subject.sae.decode(acts) + error).double().sum(0) / (stop - start))
    return torch.stack(rows)


@EACH_ARCHITECTURE
@pytest.mark.parametrize("mode", ["fixed", "reference"])
def test_closed_form_equals_brute_force(settings: Architecture, mode: str, activations: TextActivations) -> None:
    subject = subject_with(settings)
    latents = torch.arange(1, D_SAE, 2)
    assert subject.sae.encode(torch.zeros(1, D_IN))[:, latents].count_nonzero() > 0
    sums = latent_sums(subject, activations, latents, mode)
    num_tokens, W_dec = activations.num_tokens, subject.sae.W_dec[latents]
    for selected in (torch.arange(len(latents)), torch.tensor([4, 0, 9]), torch.tensor([], dtype=torch.int64)):
        actual = ablated_pooled(activations.pooled(), sums, W_dec, num_tokens, selected)
        expected = ablated_by_brute_force(subject, activations, latents[selected], padded=mode == "reference")
        assert (actual - expected).abs().max() <= 1e-5
        assert torch.equal(actual, activations.pooled()) == (len(selected) == 0)


@EACH_ARCHITECTURE
def test_special_positions_count_only_in_mode_reference(settings: Architecture, activations: TextActivations) -> None:
    subject, latents = subject_with(settings), torch.arange(D_SAE)
    fixed, reference = (latent_sums(subject, activations, latents, mode) for mode in ("fixed", "reference"))
    extra = subject.sae.encode(torch.zeros(D_IN))
    assert torch.allclose(reference - fixed, activations.num_special[:, None] * extra, atol=1e-5)
    assert torch.equal(reference[1], fixed[1])  # a text without special positions


def test_ablated_logits_equal_logits_of_ablated_activations(activations: TextActivations) -> None:
    subject = subject_with(ARCHITECTURES[0])
    rng = torch.Generator().manual_seed(7)
    directions, intercepts = torch.randn(3, D_IN, generator=rng), torch.randn(3, generator=rng)
    sums = latent_sums(subject, activations, torch.arange(D_SAE), "fixed")
    num_tokens, W_dec, selected = activations.num_tokens, subject.sae.W_dec, torch.tensor([3, 17, 20, 39])
    pooled = activations.pooled()
    actual = ablated_logits(pooled @ directions.T + intercepts, sums, W_dec @ directions.T, num_tokens, selected)
    expected = ablated_pooled(pooled, sums, W_dec, num_tokens, selected) @ directions.T + intercepts
    assert (actual - expected).abs().max() <= 1e-5


def test_attribution_by_hand() -> None:
    difference = torch.tensor([2.0, -3.0, 1.0, 0.0])
    W_dec = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-2.0, 5.0], [7.0, 7.0]])
    direction = torch.tensor([0.5, 1.0])
    assert attribution(difference, W_dec, direction, signed=True).tolist() == [1.0, 0.0, 4.0, 0.0]
    assert attribution(difference, W_dec, direction, signed=False).tolist() == [1.0, 4.5, 4.0, 0.0]


def test_mode_fixed_selects_positive_effects_only() -> None:
    effects = torch.tensor([0.0, -1.0, 3.0, 0.0, 5.0, -2.0])
    assert latents_to_ablate(effects, 1, "fixed").tolist() == [4]
    assert latents_to_ablate(effects, 5, "fixed").tolist() == [4, 2]
    assert latents_to_ablate(effects, 100, "fixed").tolist() == [4, 2]
    assert [len(latents_to_ablate(torch.zeros(3), 2, mode)) for mode in ("fixed", "reference")] == [0, 0]


def test_mode_reference_counts_nonzero_effects_but_takes_the_largest() -> None:
    """Four effects are not 0, so four latents are ablated: the two with a positive effect and two with none."""
    effects = torch.tensor([0.0, -1.0, 3.0, 0.0, 5.0, -2.0])
    selected = latents_to_ablate(effects, 5, "reference").tolist()
    assert selected[:2] == [4, 2]
    assert set(selected[2:]) == {0, 3}
    with pytest.raises(ConfigError, match="cannot ablate 7 latents of an SAE that has 6"):
        latents_to_ablate(effects, 7, "reference")


def test_attribution_of_unit_decoder_rows_is_their_cosine() -> None:
    rng = torch.Generator().manual_seed(8)
    W_dec, direction = normalize(torch.randn(5, 4, generator=rng), dim=1), torch.randn(4, generator=rng)
    effects = attribution(torch.ones(5), W_dec, direction, signed=True)
    cosines = torch.cosine_similarity(W_dec, direction[None], dim=1)
    assert torch.allclose(effects / direction.norm(), cosines, atol=1e-6)
