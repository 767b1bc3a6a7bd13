"""Copies of packed rows from the model's device to the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from saepipe.data.batches.side_stream import SideStream

Wait = Callable[[], dict[str, torch.Tensor]]
"""Waits until tensors are on the host, and returns them there. Any thread may call it."""


class HostCopies(Protocol):
    """A way between the model's device and the host."""

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copies a small CPU tensor to the device."""

    def download(self, tensors: Mapping[str, torch.Tensor]) -> Wait:
        """Starts copies of tensors that the work queued so far computes."""


class PlainCopies:
    """Copies that are made when they are asked for; on a CPU there is nothing to copy."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._device)

    def download(self, tensors: Mapping[str, torch.Tensor]) -> Wait:
        return lambda: {name: tensor.cpu() for name, tensor in tensors.items()}


def host_copies(device: torch.device) -> HostCopies:
    """Returns copies through pinned memory on a stream of their own for CUDA, and plain ones for other devices."""
    return SideStream(device) if device.type == "cuda" else PlainCopies(device)
