"""Description of the GPU: name, memory, driver, CUDA, clocks."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
from typing import Any

import torch

_SMI_FIELDS = (
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
    """Returns the GPU's properties; for a CPU only `cpu`, since `record.machine` names it."""
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
    """Returns nvidia-smi's current driver, clocks, power and load, or why there are none."""
    if device.type != "cuda":
        return "no GPU"
    if shutil.which("nvidia-smi") is None:
        return "not installed"
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    # The GPU is named by UUID: CUDA_VISIBLE_DEVICES renumbers the devices of torch, not those of nvidia-smi.
    command = ["nvidia-smi", f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader", f"--id={uuid}"]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        return (process.stderr or process.stdout).strip()
    return dict(zip(_SMI_FIELDS, (value.strip() for value in process.stdout.strip().split(",")), strict=True))
