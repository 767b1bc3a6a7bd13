"""Encoder and decoder of a sparse step, with gradients that touch the active entries only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from saepipe.train.kernels.pattern import Pattern
from saepipe.train.kernels.pick import kernels_for


def encode_at(pattern: Pattern, values: Tensor, x: Tensor, W_enc: Tensor, bias: Tensor) -> Tensor:
    """Returns entries of x @ W_enc + bias, with gradients for W_enc and bias.

    Args:
        pattern: positions of the entries in (batch, d_sae).
        values: (num_entries,) values of the entries. The whole product is needed anyway to choose the entries.
        x: (batch, d_in), in the dtype of the products; no gradient.
        W_enc: (d_in, d_sae).
        bias: (d_sae,).

    Returns:
        (num_entries,)
    """
    return _EncodeAt.apply(W_enc, bias, x, values, pattern)  # type: ignore[no-untyped-call]


def encode_all(values: Tensor, x: Tensor, W_enc: Tensor, bias: Tensor) -> Tensor:
    """Returns x @ W_enc + bias (batch, d_sae), given as `values`, with gradients for W_enc and bias."""
    return _EncodeAll.apply(W_enc, bias, x, values)  # type: ignore[no-untyped-call]


def decode(pattern: Pattern, values: Tensor, W_dec: Tensor) -> Tensor:
    """Multiplies values (num_entries,) at the pattern by W_dec (d_sae, d_in) -> (batch, d_in); gradients for both."""
    return _Decode.apply(values, W_dec, pattern)  # type: ignore[no-untyped-call]


def decode_zeros(near: Tensor, pattern: Pattern | None, carrier: Tensor, W_dec: Tensor) -> Tensor:
    """Returns (near * carrier) @ W_dec for carrier 0: zeros (batch, d_in), with a gradient for carrier alone.

    Args:
        near: (batch, d_sae) bool.
        pattern: pattern of `near`, to compute the gradient entry by entry; None: by one whole product.
        carrier: (d_sae,) zeros.
        W_dec: (d_sae, d_in). Its own gradient is 0, because carrier is 0.
    """
    return _DecodeZeros.apply(carrier, near, pattern, W_dec)  # type: ignore[no-untyped-call]


def carrying_bias(b_enc: Tensor, b_dec: Tensor, W_enc: Tensor) -> Tensor:
    """Returns b_enc (d_sae,), with the gradient that it has as b_enc - b_dec @ W_enc for b_dec (d_in,) too."""
    return _CarryingBias.apply(b_enc, b_dec, W_enc)  # type: ignore[no-untyped-call]


def with_gradient(value: Tensor, parameter: Tensor, gradient: Tensor) -> Tensor:
    """Returns value (), whose gradient for `parameter` is increased by a known one, of the parameter's shape."""
    return _WithGradient.apply(value, parameter, gradient)  # type: ignore[no-untyped-call]


def column_sums(pattern: Pattern, values: Tensor) -> Tensor:
    """Sums values (num_entries,) over the batch -> (d_sae,)."""
    return _ColumnSums.apply(values, pattern)  # type: ignore[no-untyped-call]


def total(pattern: Pattern, values: Tensor, sums: Tensor | None = None) -> Tensor:
    """Sums values (num_entries,) by column, which padding entries cannot round, then over the columns -> ().

    `sums` (d_sae,) may be given.
    """
    by_column = column_sums(pattern, values.detach()) if sums is None else sums.detach()
    return _Total.apply(values, by_column)  # type: ignore[no-untyped-call]


class _EncodeAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, W_enc: Tensor, bias: Tensor, x: Tensor, values: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(x)
        ctx.pattern, ctx.dtype = pattern, W_enc.dtype
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        kernels = kernels_for(x.device, ctx.dtype)
        W_enc_gradient = kernels.decode_t(ctx.pattern, gradient, x).T if ctx.needs_input_grad[0] else None
        return W_enc_gradient, kernels.column_sums(ctx.pattern, gradient), None, None, None


class _EncodeAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, W_enc: Tensor, bias: Tensor, x: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.dtype = W_enc.dtype
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        W_enc_gradient = (x.T @ gradient).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return W_enc_gradient, gradient.sum(0, dtype=ctx.dtype), None, None


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
        values_need_grad, W_needs_grad = ctx.needs_input_grad[:2]
        return (
            kernels.sampled(ctx.pattern, gradient, W).to(values.dtype) if values_need_grad else None,
            kernels.decode_t(ctx.pattern, values, gradient) if W_needs_grad else None,
            None,
        )


class _DecodeZeros(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, carrier: Tensor, near: Tensor, pattern: Pattern | None, W_dec: Tensor) -> Tensor:
        ctx.save_for_backward(near, W_dec)
        ctx.pattern, ctx.dtype = pattern, carrier.dtype
        return W_dec.new_zeros(len(near), W_dec.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        near, W_dec = ctx.saved_tensors
        gradient = gradient.to(ctx.dtype)
        if ctx.pattern is None:
            carrier_gradient = (W_dec * (near.to(ctx.dtype).T @ gradient)).sum(1)
        else:
            kernels = kernels_for(W_dec.device, W_dec.dtype)
            slopes = kernels.sampled(ctx.pattern, gradient, W_dec.to(ctx.dtype))
            carrier_gradient = kernels.column_sums(ctx.pattern, ctx.pattern.without_padding(slopes))
        return carrier_gradient.to(ctx.dtype), None, None, None


def _stacked(function: Any, info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
    """Applies a function that takes leading axes to stacked runs; torch's own rule would trace it at every step."""
    runs = [
        value.expand(info.batch_size, *value.shape) if axis is None else value.movedim(axis, 0)
        for value, axis in zip(inputs, in_dims, strict=True)
    ]
    return function.apply(*runs), 0


class _CarryingBias(torch.autograd.Function):
    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        return _stacked(_CarryingBias, info, in_dims, *inputs)

    @staticmethod
    def forward(b_enc: Tensor, b_dec: Tensor, W_enc: Tensor) -> Tensor:
        return b_enc.view_as(b_enc)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (W_enc,) = ctx.saved_tensors
        if gradient.dim() == 1:
            return gradient, torch.addmv(W_enc[:, 0], W_enc, gradient, beta=0, alpha=-1), None
        if gradient.device.type != "cpu":
            return gradient, -torch.matmul(W_enc, gradient.unsqueeze(-1)).squeeze(-1), None
        # Each run's own product, whose bits do not depend on the others.
        own = [torch.addmv(W[:, 0], W, g, beta=0, alpha=-1) for W, g in zip(W_enc, gradient, strict=True)]
        return gradient, torch.stack(own), None


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        return _stacked(_WithGradient, info, in_dims, *inputs)

    @staticmethod
    def forward(value: Tensor, parameter: Tensor, gradient: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (known,) = ctx.saved_tensors
        return gradient, gradient[(..., *(None,) * (known.dim() - gradient.dim()))] * known, None


class _ColumnSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, pattern: Pattern) -> Tensor:
        ctx.pattern, ctx.dtype = pattern, values.dtype
        return kernels_for(values.device, values.dtype).column_sums(pattern, values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient[ctx.pattern.columns].to(ctx.dtype), None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, by_column: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = values.shape, values.dtype
        return by_column.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient.to(ctx.dtype).expand(ctx.shape), None
