"""Random generators of a run, each named by its purpose; torch's global generator is never used."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Returns a CPU generator that depends on (seed, purpose) only, so sampling needs no state in a checkpoint."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
