"""Reconstructions of activations by an SAE, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeGuard

import torch

from saepipe.train.rundir.load import SAE
from saepipe.train.sae.base import is_active
from saepipe.train.sae.encoding import PIECE
from saepipe.train.sae.sparse_acts import SparseActs

MAX_HELD = 2**26
"""Latent activations held at a time (256 MiB in float32)."""

_CACHED = 2**22
"""Latent activations that a CPU's cache holds (16 MiB in float32)."""
_FEWEST_TOKENS, _MOST_TOKENS = 2048, 8192


def rows_at_a_time(width: int) -> int:
    """Returns the number of rows, of `width` float32 values each, that are held at a time."""
    return max(1, MAX_HELD // width)


def tokens_at_a_time(d_sae: int) -> int:
    """Returns the number of tokens to encode sparsely at a time: as many of a small SAE as a CPU's cache holds."""
    return min(max(_CACHED // d_sae, _FEWEST_TOKENS), _MOST_TOKENS, rows_at_a_time(d_sae))


def encoding_bytes(d_sae: int) -> int:
    """Returns the bytes in which tokens are encoded on a CPU: two blocks of pre-activations at most."""
    return 2 * 4 * max(PIECE, tokens_at_a_time(d_sae)) * d_sae


class Autoencoder(Protocol):
    """Interface that the metrics need of an SAE; it takes and returns raw activations."""

    W_enc: torch.Tensor
    """(d_in, d_sae)"""
    b_enc: torch.Tensor
    """(d_sae,)"""
    W_dec: torch.Tensor
    """(d_sae, d_out): d_out is d_in, but in a transcoder"""

    @property
    def d_sae(self) -> int: ...

    def encode(self, x: torch.Tensor, latents: torch.Tensor | None = None) -> torch.Tensor:
        """(num_tokens, d_in) -> (num_tokens, d_sae), or (num_tokens, num_latents) of the latents with these indices"""

    def decode(self, acts: torch.Tensor) -> torch.Tensor:
        """(num_tokens, d_sae) -> (num_tokens, d_out)"""


@dataclass(frozen=True)
class Reconstruction:
    """The kept tokens of one batch of contexts through one SAE. A latent is active if its activation is not 0."""

    x_hat: torch.Tensor
    """(num_tokens, d_out)"""
    l0: torch.Tensor
    """(num_tokens,): active latents"""
    l1: torch.Tensor
    """(num_tokens,): sum of |activation|"""
    signed_l1: torch.Tensor
    """(num_tokens,): sum of activations"""
    num_active: torch.Tensor
    """(num_contexts, d_sae): tokens of each context on which each latent is active"""


def reconstruct(
    sae: Autoencoder, x: torch.Tensor, contexts: torch.Tensor, num_contexts: int, *, positive: bool = False
) -> Reconstruction:
    """Encodes and decodes in chunks of tokens, so that the activations of all tokens are never in memory at once.

    Args:
        sae: the SAE, on the device of x.
        x: (num_tokens, d_in) raw activations, float32.
        contexts: (num_tokens,) int64 index of each token's context, below num_contexts.
        num_contexts: number of contexts in the batch.
        positive: whether `num_active` counts positive activations only, as in SAEBench (where l0 does not).
    """
    num_rows = rows_at_a_time(sae.d_sae)
    num_active = torch.zeros(num_contexts, sae.d_sae, device=x.device)
    parts = []
    for rows, context in zip(torch.split(x, num_rows), torch.split(contexts, num_rows), strict=True):
        acts = encode_sparse(sae, rows)
        pattern, values = acts.pattern, acts.values
        counted = is_active(values).to(num_active.dtype) if positive else torch.ones_like(values)
        latents = context[pattern.rows] * sae.d_sae + pattern.columns
        num_active.view(-1).index_add_(0, latents, counted)
        x_hat, l0 = decode_sparse(sae, acts), pattern.row_starts.diff()
        if (skip := skip_of(sae, rows)) is not None:
            x_hat = x_hat + skip
        parts.append((x_hat, l0.to(values.dtype), pattern.row_sums(values.abs()), pattern.row_sums(values)))
    x_hat, l0, l1, signed_l1 = (torch.cat(part) for part in zip(*parts, strict=True))
    return Reconstruction(x_hat, l0, l1, signed_l1, num_active)


def encode_sparse(sae: Autoencoder, x: torch.Tensor) -> SparseActs:
    """Encodes x (num_tokens, d_in): the activations that are not 0; found among all of them if the SAE is not ours."""
    if _is_ours(sae):
        return sae.encode_sparse(x)
    return SparseActs.stacked([SparseActs.of(sae.encode(rows)) for rows in torch.split(x, rows_at_a_time(sae.d_sae))])


def skip_of(sae: Autoencoder, x: torch.Tensor) -> torch.Tensor | None:
    """Returns what a skip transcoder adds to its decoded latents, (num_tokens, d_out); None without a skip."""
    return sae.skip(x) if isinstance(sae, SAE) else None


def decode_sparse(sae: Autoencoder, acts: SparseActs) -> torch.Tensor:
    """Decodes entries of (num_tokens, d_sae): x_hat (num_tokens, d_out), without a transcoder's skip."""
    return sae.decode_sparse(acts) if _is_ours(sae) else sae.decode(acts.pattern.dense(acts.values))


def _is_ours(sae: Autoencoder) -> TypeGuard[SAE]:
    """Returns whether its encoder and decoder are those of `SAE`."""
    return isinstance(sae, SAE) and type(sae).encode is SAE.encode and type(sae).decode is SAE.decode


def token_values(x: torch.Tensor, x_hat: torch.Tensor, mean: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns the per-token values that the reconstruction metrics sum, in float64.

    Args:
        x: (num_tokens, d_out) activations.
        x_hat: (num_tokens, d_out) their reconstructions.
        mean: (d_out,) float64, the mean of x over all kept held-out tokens.

    Returns:
        By name, (num_tokens,): `error` ||x - x_hat||^2, `variation` ||x - mean||^2, `square_in` ||x||^2, `square_out`
        ||x_hat||^2, `product` x . x_hat, `norm_in`, `norm_out`, `cosine` (0 if either is 0), `norm_ratio` over the
        `nonzero` tokens, `legacy` 1 - error / variation over the `varied` ones; `tokens` is 1 everywhere.
    """
    x, x_hat = x.double(), x_hat.double()
    square_in, square_out, product = x.square().sum(1), x_hat.square().sum(1), (x * x_hat).sum(1)
    norm_in, norm_out = square_in.sqrt(), square_out.sqrt()
    error = (x - x_hat).square().sum(1)
    variation = (x - mean).square().sum(1)
    return {
        "tokens": torch.ones_like(error),
        "error": error,
        "variation": variation,
        "square_in": square_in,
        "square_out": square_out,
        "product": product,
        "norm_in": norm_in,
        "norm_out": norm_out,
        "cosine": divide(product, norm_in * norm_out),
        "norm_ratio": divide(norm_out, norm_in),
        "nonzero": norm_in != 0,
        "legacy": divide(variation - error, variation),
        "varied": variation != 0,
    }


def divide(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """Returns the quotient, 0 where the denominator is 0."""
    return torch.where(denominator == 0, 0.0, numerator / denominator)
