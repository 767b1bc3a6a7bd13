"""Decoded GB/s (1e9 bytes of bfloat16) from a lossless cache to shuffled batches on the device.

The cache has just been written, so its files come from the page cache.
"""

from __future__ import annotations

import os
import time
from typing import Any, Literal

import torch
from gpu_parts import material
from gpu_parts.scale import Scale
from gpu_parts.session import Session
from gpu_parts.timing import seconds_per_call

from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.cache import Cache

PASSES = 3


def measure(session: Session) -> dict[str, Any]:
    """Measures streaming with the default threads and with one per core, and the decoding and batches of `resident`."""
    scale = session.scale
    cache = material.shared_cache(session.folder, scale)
    cores = len(os.sched_getaffinity(0))
    figures = {
        "streamed, default threads": streamed(scale, cache, None),
        f"streamed, {cores} threads": streamed(scale, cache, cores),
        "resident": resident(scale, cache),
    }
    for name, line in figures.items():
        print(f"  {name}: " + ", ".join(f"{key} {value:.2f}" for key, value in line.items()), flush=True)
    return figures


def streamed(scale: Scale, cache: Cache, threads: int | None) -> dict[str, float]:
    with BatchStream(cache, scale.hook, scale.batch, 0, device=scale.device, threads=threads) as stream:
        return {"gb_s": batches_gb_s(scale, stream)}


def resident(scale: Scale, cache: Cache) -> dict[str, float]:
    began = time.perf_counter()
    with BatchStream(
        cache, scale.hook, scale.batch, 0, device=scale.device, resident=memory_of(scale.device)
    ) as stream:
        seconds = time.perf_counter() - began
        return {"decode_gb_s": _bytes(scale, stream.num_rows) / seconds / 1e9, "gb_s": batches_gb_s(scale, stream)}


def memory_of(device: torch.device) -> Literal["gpu", "ram"]:
    return "gpu" if device.type == "cuda" else "ram"


def batches_gb_s(scale: Scale, stream: BatchStream) -> float:
    """Returns GB/s over some passes, from the second batch on, because the first waits for its pool."""
    batches = stream.batches()
    next(batches)
    calls = PASSES * stream.num_rows // scale.batch
    return _bytes(scale, scale.batch) / seconds_per_call(lambda: next(batches), calls, scale.device) / 1e9


def _bytes(scale: Scale, num_rows: int) -> float:
    return 2.0 * scale.d_in * num_rows
