"""A sparse step's encoder and decoder, with gradients that touch the same entries."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from saepipe.train.kernels.pattern import Pattern
from saepipe.train.kernels.pick import kernels_for

MANY = 0.1  # share of all entries from which one whole product costs less than theirs; bench/density.py


def encode_at(pattern: Pattern, known: Tensor, x: Tensor, W_enc: Tensor, bias: Tensor) -> Tensor:
    """The entries of x @ W_enc + bias, with gradients for W_enc and bias.

    Args:
        pattern: of the entries, in (batch, d_sae).
        known: (num_entries,) their values: the product is computed whole before it is known which ones count.
        x: (batch, d_in), of the dtype of the products; no gradient.
        W_enc: (d_in, d_sae).
        bias: (d_sae,).

    Returns:
        (num_entries,)
    """
    return _EncodeAt.apply(W_enc, bias, x, known, pattern)  # type: ignore[no-untyped-call]


def encode_all(known: Tensor, x: Tensor, W_enc: Tensor, bias: Tensor) -> Tensor:
    """x @ W_enc + bias (batch, d_sae), whose value is `known`, with gradients for W_enc and bias."""
    return _EncodeAll.apply(W_enc, bias, x, known)  # type: ignore[no-untyped-call]


def decode(pattern: Pattern, values: Tensor, W_dec: Tensor) -> Tensor:
    """values (num_entries,) as (batch, d_sae) times W_dec (d_sae, d_in) -> (batch, d_in), with gradients for both."""
    return _Decode.apply(values, W_dec, pattern)  # type: ignore[no-untyped-call]


def decode_zeros(near: Pattern, carrier: Tensor, W_dec: Tensor) -> Tensor:
    """What carrier decodes to at the entries `near`, where it is 0: zeros (batch, d_in), with a gradient for carrier.

    Args:
        near: in (batch, d_sae).
        carrier: (d_sae,) zeros.
        W_dec: (d_sae, d_in). Its own gradient is 0, as carrier is.
    """
    return _DecodeZeros.apply(carrier, near, W_dec)  # type: ignore[no-untyped-call]


def column_sums(pattern: Pattern, values: Tensor) -> Tensor:
    """values (num_entries,) summed over the batch -> (d_sae,)."""
    return _ColumnSums.apply(values, pattern)  # type: ignore[no-untyped-call]


class _EncodeAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, W_enc: Tensor, bias: Tensor, x: Tensor, known: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(x)
        ctx.pattern, ctx.dtype = pattern, W_enc.dtype
        return known.view_as(known)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        kernels = kernels_for(x.device, ctx.dtype)
        of_W_enc = kernels.decode_t(ctx.pattern, gradient, x).T.contiguous()
        return of_W_enc, kernels.column_sums(ctx.pattern, gradient), None, None, None


class _EncodeAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, W_enc: Tensor, bias: Tensor, x: Tensor, known: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.dtype = W_enc.dtype
        return known.view_as(known)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return (x.T @ gradient).to(ctx.dtype), gradient.sum(0, dtype=ctx.dtype), None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W_dec: Tensor, pattern: Pattern) -> Tensor:
        W = W_dec.to(values.dtype)
        ctx.save_for_backward(values, W)
        ctx.pattern, ctx.dtype = pattern, W_dec.dtype
        return kernels_for(W.device, W_dec.dtype).decode(pattern, values, W)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        values, W = ctx.saved_tensors
        kernels, gradient = kernels_for(W.device, ctx.dtype), gradient.to(values.dtype)
        of_values, of_W = ctx.needs_input_grad[:2]
        return (
            kernels.sampled(ctx.pattern, gradient, W).to(values.dtype) if of_values else None,
            kernels.decode_t(ctx.pattern, values, gradient) if of_W else None,
            None,
        )


class _DecodeZeros(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, carrier: Tensor, near: Pattern, W_dec: Tensor) -> Tensor:
        ctx.save_for_backward(W_dec)
        ctx.near, ctx.dtype = near, carrier.dtype
        return W_dec.new_zeros(near.num_rows, W_dec.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (W_dec,), near = ctx.saved_tensors, ctx.near
        gradient, W = gradient.to(ctx.dtype), W_dec.to(ctx.dtype)
        if near.num_entries > MANY * near.num_rows * near.num_columns:
            # Early in a run: one whole product is less work then.
            sums = near.dense(near.ones().to(ctx.dtype)).T @ gradient
            return (W_dec * sums).sum(1).to(ctx.dtype), None, None
        kernels = kernels_for(W.device, W_dec.dtype)
        return kernels.column_sums(near, kernels.sampled(near, gradient, W)).to(ctx.dtype), None, None


class _ColumnSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, pattern: Pattern) -> Tensor:
        ctx.pattern, ctx.dtype = pattern, values.dtype
        return kernels_for(values.device, values.dtype).column_sums(pattern, values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient[ctx.pattern.columns].to(ctx.dtype), None
