"""Selection of the torch device."""

from __future__ import annotations

from typing import Literal

import torch

from saepipe.data.errors import ConfigError, MachineError
from saepipe.data.ranks.launch import Ranks


def pick_device(name: str) -> torch.device:
    """Returns the device for `auto` (cuda if available, otherwise cpu) or for a torch device name.

    `auto` and `cuda` are a device of its own for each rank of a machine.

    Raises:
        ConfigError: if torch knows no such name.
        MachineError: if this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = cuda_name(Ranks.of_environment(), torch.cuda.device_count())
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"torch knows no device {name!r}", hint="auto, cpu, cuda or cuda:1") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise MachineError(f"this machine has no device {name!r}: {reason}", hint="device: auto") from None
    return device


def cuda_name(ranks: Ranks, num_devices: int) -> str:
    """Returns torch's name of the CUDA device of a rank; ranks beyond the number of devices share them in turn."""
    return "cuda" if ranks.local_size == 1 else f"cuda:{ranks.local_rank % max(1, num_devices)}"


def fast_dtype(device: torch.device) -> Literal["bfloat16", "float32"]:
    """Returns bfloat16 where the hardware multiplies it; else float32, which is then several times as fast."""
    if device.type != "cpu":
        return "bfloat16"
    in_hardware = [has for name, has in torch.cpu.get_capabilities().items() if "bf16" in name]
    return "bfloat16" if any(in_hardware) else "float32"
