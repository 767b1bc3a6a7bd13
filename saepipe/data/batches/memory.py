"""Which memory a cache may be kept in, and how much of it is free."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch

from saepipe.data.errors import ConfigError

Resident = Literal["none", "ram", "gpu"]
"""Which memory a cache is decoded into before the first batch; `none`: it is decoded as it is read."""

MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def check_resident(resident: Resident, device: torch.device) -> None:
    """Raises ConfigError if `device` has no memory of its own to keep rows in."""
    if resident == "gpu" and device.type != "cuda":
        raise ConfigError(
            f"resident: gpu, and the device is {device}", hint="resident: ram, or device: cuda where there is one"
        )


def free_ram() -> float:
    """Bytes that could be had without swapping, and no more than a container's limit leaves."""
    return min(_free_of_machine(), _free_of_container())


def _free_of_machine() -> int:
    """The kernel's own estimate, which counts the page cache as free; all of the machine's where there is none."""
    fields = dict(line.split(":") for line in MEMINFO.read_text().splitlines()) if MEMINFO.exists() else {}
    if "MemAvailable" in fields:
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_of_container() -> float:
    """Of control group version 2 as a container sees it; infinite where no limit is set."""
    limit = CGROUP / "memory.max"
    if not limit.exists() or limit.read_text().strip() == "max":
        return float("inf")
    statistics = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    used = int((CGROUP / "memory.current").read_text()) - int(statistics["inactive_file"])
    return int(limit.read_text()) - used
