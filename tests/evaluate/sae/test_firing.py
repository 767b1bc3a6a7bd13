"""Statistics of single latents against plain loops."""

from __future__ import annotations

import pytest
import torch

from saepipe.evaluate.sae import firing, reconstruction
from saepipe.evaluate.sae.firing import ActiveCounts, max_cosine, weight_figures
from saepipe.evaluate.sae.reconstruction import decode_sparse, encode_sparse, reconstruct
from saepipe.train.rundir.load import SAE
from saepipe.train.sae.base import Architecture
from saepipe.train.sae.relu import ReLU
from saepipe.train.sae.sparse_acts import SparseActs

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("block", [1, 3, 1024])
def test_max_cosine_is_over_other_rows(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firing, "_BLOCK", block)
    rows = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    rows[3] = 0.0
    largest = max_cosine(rows)
    for i in range(7):
        others = [torch.cosine_similarity(rows[i], rows[j], dim=0) for j in range(7) if j not in (i, 3)]
        assert (largest[i].isnan() if i == 3 else torch.isclose(largest[i], max(others))).item()


def test_two_equal_rows_and_a_single_one() -> None:
    assert max_cosine(torch.tensor([[0.0, 2.0], [0.0, 3.0]])).tolist() == [1.0, 1.0]
    assert max_cosine(torch.tensor([[0.0, 2.0]])).isnan().all()


def test_weight_figures(random_sae) -> None:
    figures = weight_figures(random_sae)
    encoder, decoder = random_sae.W_enc.T, random_sae.W_dec
    torch.testing.assert_close(figures["encoder_norm"], encoder.square().sum(1).sqrt())
    torch.testing.assert_close(
        figures["encoder_decoder_cosine_sim"][:-1], torch.cosine_similarity(encoder, decoder, dim=1)[:-1]
    )
    assert figures["encoder_decoder_cosine_sim"][-1].isnan()
    assert figures["max_decoder_cosine_sim"][-1].isnan()
    assert torch.equal(figures["encoder_bias"], random_sae.b_enc)


def test_the_bias_of_a_gated_sae_is_its_magnitude_bias(random_sae) -> None:
    random_sae.b_mag = torch.arange(24.0)
    assert torch.equal(weight_figures(random_sae)["encoder_bias"], torch.arange(24.0))


def test_with_zeros_a_zero_row_has_cosine_0_with_every_row() -> None:
    rows = torch.tensor([[0.0, 0.0], [0.0, 3.0], [0.0, -1.0]])
    assert max_cosine(rows, with_zeros=True).tolist() == [0.0, 0.0, 0.0]
    assert max_cosine(rows)[1:].tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("chunk", [1, 200, 2**26])
def test_chunks_do_not_change_a_reconstruction(chunk: int, random_sae, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "MAX_HELD", chunk)
    rng = torch.Generator().manual_seed(1)
    x, contexts = torch.randn(40, 16, generator=rng), torch.randint(3, (40,), generator=rng)
    reconstructed, acts = reconstruct(random_sae, x, contexts, 4), random_sae.encode(x)
    torch.testing.assert_close(reconstructed.x_hat, random_sae.decode(acts))
    torch.testing.assert_close(reconstructed.l1, acts.sum(1))
    assert torch.equal(reconstructed.l0, (acts > 0).sum(1).float())
    for context in range(4):
        assert torch.equal(reconstructed.num_active[context], (acts[contexts == context] > 0).sum(0).float())


@pytest.mark.parametrize("share", [0.0, 0.05, 0.6])
@pytest.mark.parametrize("own_decoder", [False, True])
def test_entries_are_decoded_like_the_whole_array(
    share: float, own_decoder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few entries are decoded one by one; many, or by an architecture's own decoder, as a whole array."""
    if own_decoder:
        monkeypatch.setattr(ReLU, "decode", lambda self, params, acts: 2 * Architecture.decode(self, params, acts))
    rng = torch.Generator().manual_seed(2)
    settings = ReLU(d_sae=24)
    sae = SAE(settings, settings.init(16, 1.0, rng) | {"b_dec": torch.randn(16, generator=rng)}, {})
    mask = torch.rand(40, 24, generator=rng) < share
    acts = torch.rand(40, 24, generator=rng) * mask
    torch.testing.assert_close(decode_sparse(sae, SparseActs.of(acts)), sae.decode(acts))


class Doubled(SAE):
    """SAE with an encoder of its own."""

    def encode(self, x: torch.Tensor, latents: torch.Tensor | None = None) -> torch.Tensor:
        return 2 * super().encode(x, latents)


def test_an_encoder_of_its_own_is_asked(random_sae) -> None:
    """Of whatever is not `SAE` itself, entries are those of its `encode`, the negative ones included."""
    rng = torch.Generator().manual_seed(3)
    settings, x = ReLU(d_sae=24), torch.randn(40, 16, generator=rng)
    random_sae.relu = False
    for sae in (Doubled(settings, settings.init(16, 1.0, rng), {}), random_sae):
        acts = encode_sparse(sae, x)
        assert torch.equal(acts.pattern.dense(acts.values), sae.encode(x))
        torch.testing.assert_close(decode_sparse(sae, acts), sae.decode(sae.encode(x)))


def test_tokens_and_contexts_are_counted() -> None:
    counts = ActiveCounts.zeros(2).add(torch.tensor([[3.0, 0.0], [1.0, 0.0]])).add(torch.tensor([[0.0, 2.0]]))
    assert (counts.tokens.tolist(), counts.contexts.tolist(), counts.num_contexts) == ([4, 2], [2, 1], 3)
