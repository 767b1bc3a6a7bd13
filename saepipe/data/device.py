"""Which device torch computes on."""

from __future__ import annotations

import torch

from saepipe.data.errors import ConfigError, MachineError


def pick_device(name: str) -> torch.device:
    """`auto` (cuda where there is one, else cpu), or a device by torch's name for it.

    Raises:
        ConfigError: if torch knows no such name; MachineError: if this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device {name!r} is none that torch knows", hint="auto, cpu, cuda or cuda:1") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MachineError(f"no device {name!r} here: {str(error).splitlines()[0]}", hint="device: auto") from None
    return device
