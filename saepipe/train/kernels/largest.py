"""The k largest numbers of each row. On a CPU numpy finds them, which partitions by vector instructions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saepipe.train.kernels.constants import TRACED

GROUP = 16
"""Columns of which only the largest number is compared with those of other groups."""


def largest(values: Tensor, k: int) -> Tensor:
    """Returns the columns of each row's k largest values (num_rows, num_columns), int64 (num_rows, k), ascending.

    A NaN is larger than any number. On a CPU numpy finds each row's k-th largest, which takes a fifth of the time of
    torch's topk; that decides where other values equal it.
    """
    if values.device.type == "cpu" and values.dtype == torch.float32 and not TRACED.get():
        numbers = values.detach().numpy()
        kth = np.partition(numbers, -k, axis=1)[:, -k, None]
        positions = np.flatnonzero(~(numbers < kth))  # at least k in each row
        if len(positions) == len(numbers) * k:
            return torch.from_numpy(positions % numbers.shape[1]).view(-1, k)
    return values.topk(k, dim=1, sorted=False).indices.sort(dim=1).values


def at_most_kth(values: Tensor, k: int) -> Tensor:
    """Returns a number that at least k values of each row reach, (num_rows, 1).

    If there are many columns, the k-th largest of the maxima of groups: they are few, and it is hardly smaller than
    that of all. The maximum of a group without positive numbers may be any of its numbers.

    Args:
        values: (num_rows, num_columns) bfloat16. Their bits, which are compared several times as fast, have their
            order among positive numbers, and the opposite one among negative numbers.
        k: at most num_columns.
    """
    bits, num_groups = values.view(torch.int16), values.shape[1] // GROUP
    if num_groups >= 4 * k:
        bits = bits[:, : num_groups * GROUP].view(len(bits), GROUP, num_groups).amax(1)
    return _in_order(_kth(_in_order(bits), k)).view(torch.bfloat16)


def _in_order(bits: Tensor) -> Tensor:
    """Maps bits of bfloat16 numbers to int16 numbers of the same order; inverts itself."""
    return bits ^ ((bits >> 15) & 0x7FFF)


def _kth(values: Tensor, k: int) -> Tensor:
    if values.device.type == "cpu":
        return torch.from_numpy(np.partition(values.numpy(), -k, axis=1)[:, -k:][:, :1].copy())
    return values.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
