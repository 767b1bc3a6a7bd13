"""Time of a step by operation, as torch.profiler's table."""

from __future__ import annotations

from pathlib import Path

import torch
from gpu_parts import material
from gpu_parts.contenders import train_all
from gpu_parts.loader import memory_of
from gpu_parts.scale import Scale
from gpu_parts.settled import settle
from gpu_parts.steps import order
from gpu_parts.timing import Work
from torch.profiler import ProfilerActivity, profile

from saepipe.data.batches.stream import BatchStream

STEPS = 5
LINES = 25


def tables(scale: Scale, folder: Path) -> str:
    """Returns the tables of dense and sparse steps at the shapes of the first two aims."""
    texts = []
    cache = material.shared_cache(folder, scale)
    device, resident = scale.device, memory_of(scale.device)
    with BatchStream(cache, scale.hook, scale.batch, 0, device=device, resident=resident) as stream:
        for name, d_sae in order(scale)[:2]:
            settled = settle(scale, name, d_sae, next(stream.batches()).to(device))
            for path, sparse_steps in (("dense", "never"), ("sparse", "always")):
                step = train_all(scale, settled, sparse_steps, 1, stream.batches())
                step()
                texts.append(f"{name}, d_sae {d_sae:,}, {path}: {STEPS} steps\n{table(step, scale)}")
    return "\n".join(texts)


def table(step: Work, scale: Scale) -> str:
    on_device = scale.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_device else [])]
    with profile(activities=activities) as trace:
        for _ in range(STEPS):
            step()
        if on_device:
            torch.cuda.synchronize(scale.device)
    return trace.key_averages().table(sort_by="device_time_total" if on_device else "cpu_time_total", row_limit=LINES)
