"""Choice of the memory that holds a cache, and how much of the host's is free."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch

from saepipe.data.errors import ConfigError

Resident = Literal["none", "ram", "gpu"]
"""Memory into which a cache is decoded before the first batch; with `none`, it is decoded while it is read."""

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def check_resident(resident: Resident, device: torch.device) -> None:
    """Raises ConfigError if rows are to be kept in the memory of a device that is not CUDA."""
    if resident == "gpu" and device.type != "cuda":
        hint = "resident: ram, or device: cuda if there is one"
        raise ConfigError(f"resident: gpu needs a CUDA device, but the device is {device}", hint=hint)


def free_ram() -> float:
    """Bytes available without swapping, within the limit of the container."""
    return min(_free_of_machine(), _free_of_container())


def _free_of_machine() -> int:
    """The kernel's own estimate, which counts the page cache as free; without one, all memory of the machine."""
    fields = dict(line.split(":") for line in MEMINFO.read_text().splitlines()) if MEMINFO.exists() else {}
    if "MemAvailable" in fields:
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_of_container() -> float:
    """Bytes left by control group version 2, as seen inside a container; infinite if no limit is set."""
    limit = CGROUP / "memory.max"
    if not limit.exists() or limit.read_text().strip() == "max":
        return float("inf")
    statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    used = int((CGROUP / "memory.current").read_text()) - int(statistics["inactive_file"])
    return int(limit.read_text()) - used
