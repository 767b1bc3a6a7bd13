"""Selection of the torch device."""

from __future__ import annotations

from typing import Literal

import torch

from saepipe.data.errors import ConfigError, MachineError


def pick_device(name: str) -> torch.device:
    """Returns the device for `auto` (cuda if available, otherwise cpu) or for a torch device name.

    Raises:
        ConfigError: if torch knows no such name.
        MachineError: if this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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


def fast_dtype(device: torch.device) -> Literal["bfloat16", "float32"]:
    """Returns bfloat16 where the hardware multiplies it; else float32, which is then several times as fast."""
    if device.type != "cpu":
        return "bfloat16"
    in_hardware = [has for name, has in torch.cpu.get_capabilities().items() if "bf16" in name]
    return "bfloat16" if any(in_hardware) else "float32"
