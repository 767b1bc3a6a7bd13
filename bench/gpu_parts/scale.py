"""Sizes of each part: `full` for the claims about a GPU, and `tiny` for a CPU, which supports no claims."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Scale:
    """Sizes and time budgets of a whole measurement."""

    device: torch.device
    d_in: int
    batch: int
    d_saes: tuple[int, ...]
    active: int  # latents per token of every architecture
    num_variants: int
    rounds: int  # turns per contender; figures are medians over them
    turn_seconds: float  # length of a turn
    copy_bytes: int

    contexts: tuple[tuple[int, int], ...]  # (context_size, contexts per forward pass)
    harvest_tokens: int
    harvest_layer: int

    cache_rows: int  # rows of the cache that loaders and steps read
    shard_rows: int
    chunk_rows: int

    reference_rows: int  # rows of the cache that the reference experiment reads
    reference_d_sae: int
    reference_batch: int
    reference_steps: int

    seconds: dict[str, float]  # time budget of each part; measurements that do not fit are recorded as skipped

    @property
    def tiny(self) -> bool:
        return self.device.type == "cpu"

    @property
    def hook(self) -> str:
        return f"blocks.{self.harvest_layer}.hook_resid_post"


def full(device: torch.device) -> Scale:
    """Returns the sizes of the claims: the shapes of Gemma-2-2b, and the field's reference experiment."""
    return Scale(
        device=device,
        d_in=2304,
        batch=4096,
        d_saes=(2304, 16_384, 65_536),
        active=64,
        num_variants=8,
        rounds=5,
        turn_seconds=0.1,
        copy_bytes=2**30,
        contexts=((128, 128), (1024, 16)),
        harvest_tokens=1_048_576,
        harvest_layer=19,
        cache_rows=262_144,
        shard_rows=65_536,
        chunk_rows=1024,
        reference_rows=2_500_000,
        reference_d_sae=2304,
        reference_batch=2048,
        reference_steps=4882,
        seconds={
            "kernels": 40,
            "steps": 150,
            "reference": 110,
            "harvest": 90,
            "screen": 25,
            "ceilings": 10,
            "loader": 25,
        },
    )


def tiny() -> Scale:
    """Returns sizes that run every line on a CPU within seconds."""
    return Scale(
        device=torch.device("cpu"),
        d_in=32,
        batch=64,
        d_saes=(64,),
        active=8,
        num_variants=2,
        rounds=1,
        turn_seconds=0.0,
        copy_bytes=2**16,
        contexts=((32, 8),),
        harvest_tokens=2048,
        harvest_layer=1,
        cache_rows=1024,
        shard_rows=512,
        chunk_rows=128,
        reference_rows=1024,
        reference_d_sae=32,
        reference_batch=64,
        reference_steps=16,
        seconds=dict.fromkeys(("kernels", "steps", "reference", "harvest", "screen", "ceilings", "loader"), 60.0),
    )
