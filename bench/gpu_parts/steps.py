"""Step time, tokens/s and share of the matmul ceiling, dense and sparse, in turns with plain and compiled PyTorch.

A step counts as five dense products, 10 * batch * d_in * d_sae operations: two for the encoder and its gradient, two
for the decoder and its gradient, one for the activations' gradient. A sparse step counts the same, so its share is the
rate that a dense step would need, and can exceed 1. The ceiling is the encoder's product in the same dtype, measured in
the same turns. Batches are shuffled, from a cache in the device's memory; `streamed` ones are decoded on demand, in
pools so small and turns so long that data decoded before a turn makes almost no difference.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from gpu_parts import material
from gpu_parts.contenders import MATMUL, STREAMED_POOL_CHUNKS, Batches, Entry, contenders, unfit
from gpu_parts.loader import memory_of
from gpu_parts.scale import Scale
from gpu_parts.session import Session
from gpu_parts.settled import ARCHITECTURES, settle
from gpu_parts.timing import Contender, Timing, attempt, in_turns, warm_up

from saepipe.data.batches.stream import BatchStream

NUM_COMPILED = 1
"""Architectures and widths at which our whole step is compiled, the first ones: each takes a good part of a minute."""

PRINTED = ("ms", "tokens_s", "tflop_s", "share_of_matmul", "peak_gib")


def measure(session: Session) -> dict[str, Any]:
    """Measures every architecture and width; records those for which no time is left as skipped."""
    scale, by_width = session.scale, {}
    cache = material.shared_cache(session.folder, scale)
    with ExitStack() as stack:
        shared = {"device": scale.device}
        resident = BatchStream(cache, scale.hook, scale.batch, 0, resident=memory_of(scale.device), **shared)
        streamed = BatchStream(cache, scale.hook, scale.batch, 0, pool_chunks=STREAMED_POOL_CHUNKS, **shared)
        streams = [stack.enter_context(stream) for stream in (resident, streamed)]
        for name, d_sae in order(scale):
            key = f"{name} {d_sae}"
            if session.budget.left < 0:
                by_width[key] = {"skipped": "the part's time was up"}
                print(f"  {key}: skipped, the part's time was up", flush=True)
                continue
            batches, compiles = [stream.batches for stream in streams], len(by_width) < NUM_COMPILED
            by_width[key] = attempt(
                key,
                lambda name=name, d_sae=d_sae, batches=batches, compiles=compiles: one_width(
                    scale, name, d_sae, *batches, sparse=session.kernels_right, compiles=compiles
                ),
            )
            session.keep(by_width)
            torch.compiler.reset()
    return by_width


def order(scale: Scale) -> list[tuple[str, int]]:
    """Returns architectures and widths, those of the aims first."""
    first = [("relu", 16_384), ("topk", 65_536), ("relu", 2304)]
    every = [(name, d_sae) for d_sae in scale.d_saes for name in ARCHITECTURES]
    return [pair for pair in first if pair in every] + [pair for pair in every if pair not in first]


def one_width(
    scale: Scale, name: str, d_sae: int, resident: Batches, streamed: Batches, *, sparse: bool, compiles: bool
) -> dict[str, Any]:
    settled = settle(scale, name, d_sae, next(resident()).to(scale.device))
    entries = contenders(scale, settled, resident, streamed, sparse=sparse, compiles=compiles)
    print(f"  {name}, d_sae {d_sae:,}, L0 {settled.l0:.1f}", flush=True)
    table: dict[str, Any] = {}
    warm: dict[str, Contender] = {}
    for contender, entry in entries.items():
        if reason := unfit(scale, d_sae, entry):
            table[contender] = {"skipped": reason}
            continue

        def prepare(contender: str = contender, entry: Entry = entry) -> dict[str, Any]:
            warm[contender] = warm_up(entry.make, scale.device, scale.turn_seconds, min_calls=entry.min_calls)
            return {}

        table[contender] = attempt(f"{name} {d_sae}, {contender}", prepare)
    timings = in_turns(warm, scale.device, scale.rounds)
    for contender, timing in timings.items():
        figures = figures_of(scale, d_sae, entries[contender].runs, timing, timings[MATMUL], warm[contender])
        table[contender] = figures if contender != MATMUL else {"ms": figures["ms"], "tflop_s": figures["tflop_s"] / 5}
        numbers = (f"{table[contender][key]:,.4g} {key}" for key in PRINTED if key in table[contender])
        print(f"    {contender:24}  {'   '.join(numbers)}", flush=True)
    return {"l0": settled.l0, "contenders": table}


def figures_of(
    scale: Scale, d_sae: int, runs: int, timing: Timing, matmul: Timing, contender: Contender
) -> dict[str, float]:
    flop = 10.0 * scale.batch * scale.d_in * d_sae * runs
    figures = {
        "ms": 1e3 * timing.seconds,
        "tokens_s": scale.batch * runs / timing.seconds,
        "tflop_s": flop / timing.seconds / 1e12,
        "share_of_matmul": 5 * runs * matmul.seconds / timing.seconds,
        "ms_fastest_turn": 1e3 * min(timing.turns),
        "ms_slowest_turn": 1e3 * max(timing.turns),
        "first_call_s": contender.first_seconds,
    }
    return figures if contender.peak_bytes is None else figures | {"peak_gib": contender.peak_bytes / 2**30}
