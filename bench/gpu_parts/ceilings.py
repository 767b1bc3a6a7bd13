"""The machine's ceilings: bytes copied within the device and to it, and matrix products of an SAE's shape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gpu_parts.scale import Scale
from gpu_parts.session import Session
from gpu_parts.timing import median_seconds

PRECISIONS = ("float32", "tf32", "bfloat16")


def measure(session: Session) -> dict[str, Any]:
    """Returns GB/s (1e9 bytes; a copy within the device counts bytes read and bytes written) and TFLOP/s."""
    scale = session.scale
    figures: dict[str, Any] = {"device_copy_gb_s": device_copy(scale), "h2d_pinned_gb_s": host_to_device(scale)}
    products: dict[str, dict[str, float]] = {}
    for d_sae in scale.d_saes:
        shape = f"{scale.batch} x {scale.d_in} x {d_sae}"
        products[shape] = {name: matmul(scale, d_sae, name) for name in PRECISIONS if session.budget.left > 0}
        print(f"  {shape}: " + ", ".join(f"{name} {value:.1f} TFLOP/s" for name, value in products[shape].items()))
    figures["matmul_tflop_s"] = products
    print(f"  copy {figures['device_copy_gb_s']:.0f} GB/s, from pinned memory {figures['h2d_pinned_gb_s']:.1f} GB/s")
    return figures


def device_copy(scale: Scale) -> float:
    source = torch.empty(scale.copy_bytes, dtype=torch.uint8, device=scale.device)
    target = torch.empty_like(source)
    return 2 * scale.copy_bytes / _seconds(lambda: target.copy_(source), scale) / 1e9


def host_to_device(scale: Scale) -> float:
    source = torch.empty(scale.copy_bytes, dtype=torch.uint8, pin_memory=scale.device.type == "cuda")
    target = torch.empty_like(source, device=scale.device)
    return scale.copy_bytes / _seconds(lambda: target.copy_(source, non_blocking=True), scale) / 1e9


def matmul(scale: Scale, d_sae: int, precision: str) -> float:
    """Returns TFLOP/s of (batch, d_in) @ (d_in, d_sae)."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left = torch.randn(scale.batch, scale.d_in, device=scale.device, dtype=dtype)
    right = torch.randn(scale.d_in, d_sae, device=scale.device, dtype=dtype)
    with float32_products("high" if precision == "tf32" else "highest"):
        seconds = _seconds(lambda: left @ right, scale)
    return 2 * scale.batch * scale.d_in * d_sae / seconds / 1e12


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _seconds(work: Any, scale: Scale) -> float:
    return median_seconds(work, scale.device, scale.rounds, scale.turn_seconds)
