"""Every random draw of a run comes from a generator named by what it is for; none from torch's global one."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator that is a pure function of (seed, purpose), so a draw needs no state in a checkpoint."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
