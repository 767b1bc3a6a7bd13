"""Which GPU it was: name, memory, driver, CUDA, clocks."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
from typing import Any

import torch

_ASKED = (
    "name",
    "driver_version",
    "pstate",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "clocks.max.mem",
    "power.limit",
    "temperature.gpu",
    "utilization.gpu",
    "mig.mode.current",
)


def describe(device: torch.device) -> dict[str, Any]:
    """Of a CPU only that it is one: `record.machine` names it."""
    if device.type != "cuda":
        return {"name": "cpu"}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": importlib.metadata.version("triton") if importlib.util.find_spec("triton") else "not installed",
        "nvidia_smi": nvidia_smi(device),
    }


def nvidia_smi(device: torch.device) -> dict[str, str] | str:
    """Driver, clocks, power and load of this moment as nvidia-smi says them, or why it does not."""
    if device.type != "cuda":
        return "no GPU"
    if shutil.which("nvidia-smi") is None:
        return "not installed"
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    # By its UUID: CUDA_VISIBLE_DEVICES renumbers what torch sees, not what nvidia-smi lists.
    command = ["nvidia-smi", f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader", f"--id={uuid}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return (done.stderr or done.stdout).strip()
    return dict(zip(_ASKED, (value.strip() for value in done.stdout.strip().split(",")), strict=True))
