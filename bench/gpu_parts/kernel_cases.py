"""Test cases of the kernels: awkward sizes and patterns, then the active latents of real steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from gpu_parts.scale import Scale
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern


@dataclass(frozen=True)
class Case:
    """A pattern, its values, and the matrices that it is multiplied by."""

    name: str
    pattern: Pattern  # (num_rows, num_columns)
    values: Tensor  # (num_entries,)
    A: Tensor  # (num_rows, n)
    W: Tensor  # (num_columns, n)


def cases(scale: Scale, dtype: torch.dtype) -> Iterator[Case]:
    yield from awkward_cases(scale, dtype)
    yield from real_cases(scale, dtype)


def awkward_cases(scale: Scale, dtype: torch.dtype) -> Iterator[Case]:
    """Yields sizes next to a kernel's powers of two, rows and columns without entries, and very long ones."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 1, 1), (2, 3, 5), (17, 33, 65), (31, 257, 130), (129, 64, 31), (700, 5, 33))
    masks: dict[str, Callable[[Tensor], Tensor]] = {
        "a tenth": lambda uniform: uniform < 0.1,
        "all": lambda uniform: uniform >= 0,
        "none": lambda uniform: uniform < 0,
        "one row": lambda uniform: torch.arange(len(uniform)).unsqueeze(1).expand_as(uniform) == len(uniform) - 1,
        "one column": lambda uniform: torch.arange(uniform.shape[1]).expand_as(uniform) == uniform.shape[1] // 2,
    }
    for num_rows, num_columns, n in shapes:
        for name, mask in masks.items():
            kept = mask(torch.rand(num_rows, num_columns, generator=generator))
            pattern = Pattern.of_mask(kept.to(scale.device))
            yield _case(f"{num_rows} x {num_columns} x {n}, {name}", pattern, n, dtype)


def real_cases(scale: Scale, dtype: torch.dtype) -> Iterator[Case]:
    """Yields the active latents of a batch: the same number per row, with some latents in most rows and most in few."""
    for d_sae in scale.d_saes:
        generator = torch.Generator(scale.device).manual_seed(d_sae)
        uniform = torch.rand(scale.batch, d_sae, generator=generator, device=scale.device)
        # The k smallest of Exp(1) / rate: sampling without replacement, with frequencies that fall as 1 / rank.
        rank = 1 + torch.arange(d_sae, device=scale.device)
        chosen = (-uniform.log() * rank).topk(scale.active, dim=1, largest=False).indices
        pattern = Pattern.of_indices(chosen, d_sae)
        yield _case(f"{scale.batch} x {d_sae} x {scale.d_in}, {scale.active} a row", pattern, scale.d_in, dtype)


def _case(name: str, pattern: Pattern, n: int, dtype: torch.dtype) -> Case:
    device = pattern.columns.device
    generator = torch.Generator(device).manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    return Case(name, pattern, normal(pattern.num_entries), normal(pattern.num_rows, n), normal(pattern.num_columns, n))
