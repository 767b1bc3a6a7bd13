"""The ranks among which one axis of a run is split, and what they exchange, with its gradient.

A value that all of these ranks hold has its whole gradient on each of them. From this rule follow the gradients of the
four exchanges (Shoeybi et al. 2019, Megatron-LM, arXiv 1909.08053):

    exchange   forward                               backward
    enter      the same value, used by each rank      the sum of the ranks' gradients
               for its own part
    add        the sum of the ranks' values           the same gradient
    join       the ranks' parts side by side          the own part of the gradient
    own        the own part                           the ranks' gradients side by side

Sums are formed in float32 at least: gloo rounds sums in bfloat16 at each addition, and differently by element.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from saepipe.data.ranks.group import LostRankError, not_waiting, raise_failure
from saepipe.data.ranks.launch import Ranks


@dataclass(frozen=True, eq=False)
class Axis:
    """This rank's place among `size` ranks that hold neighbouring parts of an axis."""

    rank: int = 0
    size: int = 1
    group: Any = None

    def parts(self, length: int) -> list[range]:
        """Returns the part of an axis of `length` that each rank holds; their lengths differ by 1 at most."""
        cuts = [length * rank // self.size for rank in range(self.size + 1)]
        return [range(low, high) for low, high in pairwise(cuts)]

    def part(self, length: int) -> range:
        """Returns the part that this rank holds."""
        return self.parts(length)[self.rank]

    def enter(self, value: Tensor) -> Tensor:
        """Returns a value that all ranks hold, of which each computes its own part from here on."""
        return value if self.size == 1 else _Enter.apply(value, self)  # type: ignore[no-untyped-call]

    def add(self, value: Tensor) -> Tensor:
        """Returns the sum of the ranks' values."""
        return value if self.size == 1 else _Add.apply(value, self)  # type: ignore[no-untyped-call]

    def join(self, part: Tensor, dim: int, length: int) -> Tensor:
        """Returns the ranks' parts, side by side along `dim`, (..., length, ...)."""
        if self.size == 1:
            return part
        sizes = [len(each) for each in self.parts(length)]
        return _Join.apply(part, self, dim, sizes)  # type: ignore[no-untyped-call]

    def own(self, whole: Tensor, dim: int) -> Tensor:
        """Returns this rank's part along `dim` of a value that all ranks hold."""
        if self.size == 1:
            return whole
        sizes = [len(each) for each in self.parts(whole.shape[dim])]
        return _Own.apply(whole, self, dim, sizes)  # type: ignore[no-untyped-call]

    def summed(self, value: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
        """Returns the sum, or another reduction, of the ranks' values, without gradient; a new tensor."""
        wide = value.detach().to(torch.promote_types(value.dtype, torch.float32), copy=True).contiguous()
        if self.size > 1:
            with answered():
                dist.all_reduce(wide, op, group=self.group)
        return wide.to(value.dtype)

    def joined(self, part: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
        """Returns parts of given sizes side by side, without gradient; shorter ones travel padded."""
        if self.size == 1:
            return part.detach()
        own = part.detach().movedim(dim, 0)
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        padded[: len(own)] = own
        arrived = [torch.empty_like(padded) for _ in sizes]
        with answered():
            dist.all_gather(arrived, padded, group=self.group)
        return torch.cat([each[:size] for each, size in zip(arrived, sizes, strict=True)]).movedim(0, dim)


@contextmanager
def answered() -> Iterator[None]:
    """Says which ranks did not take part in an exchange that fails, of which torch raises a plain RuntimeError.

    Raises:
        LostRankError: if another rank is late, has failed or has ended.
    """
    try:
        yield
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        ranks = Ranks.of_environment()
        raise_failure(ranks)
        late = ", ".join(map(str, not_waiting(ranks)))
        message = f"rank {ranks.rank} waited in vain for rank {late or 'unknown'}, which is late or has ended: {reason}"
        raise LostRankError(message, hint="see what that rank says; `parallel.timeout` sets the time") from error


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return ctx.axis.summed(gradient), None


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, axis: Axis) -> Tensor:
        return axis.summed(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient, None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, axis: Axis, dim: int, sizes: list[int]) -> Tensor:
        ctx.place = axis, dim, sizes
        return axis.joined(part, dim, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        axis, dim, sizes = ctx.place
        return torch.split(gradient, sizes, dim)[axis.rank], None, None, None


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, axis: Axis, dim: int, sizes: list[int]) -> Tensor:
        ctx.place = axis, dim, sizes
        return torch.split(whole, sizes, dim)[axis.rank].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        axis, dim, sizes = ctx.place
        return axis.joined(gradient, dim, sizes), None, None, None
