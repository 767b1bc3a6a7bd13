"""When the encoder's products of sparse steps are screened: a rule on device and dtype, never on timing."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch

Screening = Literal["auto", "always", "never"]

BFLOAT16_CAPABILITY = 8, 0
"""First CUDA capability whose tensor cores multiply bfloat16 (Ampere)."""


def free_to_read(device: torch.device) -> bool:
    """True if the host reads a number of a tensor on the device without waiting."""
    return device.type == "cpu"


@cache
def multiplies_bfloat16_fast() -> bool:
    """True if the CPU has instructions for products of bfloat16 factors that sum in float32."""
    ask = getattr(torch.cpu, "get_capabilities", None)  # earlier versions of torch have none
    capabilities = {} if ask is None else ask()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def screens(screening: Screening, device: torch.device, dtype: torch.dtype) -> bool:
    """True if the encoder's products are screened: float32 ones, on a CPU that gains from it, or on demand.

    On CUDA only on demand, until a result of bench/gpu.py is committed. Products of bfloat16 factors are not screened:
    float8 would leave more candidates than pay (bench/screen.py).
    """
    if screening == "never" or dtype != torch.float32:
        return False
    if device.type == "cuda":
        return screening == "always" and torch.cuda.get_device_capability(device) >= BFLOAT16_CAPABILITY
    return device.type == "cpu" and (screening == "always" or multiplies_bfloat16_fast())
