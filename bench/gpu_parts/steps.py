"""Step time, tokens/s and share of the matmul ceiling, dense and sparse, beside compiled plain PyTorch, in turns.

A step counts as five dense products, 10 * batch * d_in * d_sae operations: two for the encoder and its gradient, two
for the decoder and its gradient, one for the activations' gradient. A sparse step is counted the same, so its share
says what a dense one would have to reach, and can exceed 1. The ceiling is the encoder's product in the same dtype,
measured in the same turns. Batches come shuffled from a cache in the device's memory; `streamed` ones are decoded as
they are asked for, in pools so small, and turns so long, that what was decoded before a turn hardly counts.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from gpu_parts import material
from gpu_parts.contenders import MATMUL, STREAMED_POOL_CHUNKS, Batches, Entry, contenders, too_large
from gpu_parts.loader import memory_of
from gpu_parts.scale import Scale
from gpu_parts.session import Session
from gpu_parts.settled import ARCHITECTURES, settle
from gpu_parts.timing import Contender, Timing, attempt, in_turns, ready

from saepipe.data.batches.stream import BatchStream

SHOWN = ("ms", "tokens_s", "tflop_s", "share_of_matmul", "peak_gib")


def measure(session: Session) -> dict[str, Any]:
    """By architecture and width; what the part's time does not suffice for says so."""
    scale, found = session.scale, {}
    cache = material.shared_cache(session.folder, scale)
    with ExitStack() as stack:
        shared = {"device": scale.device}
        resident = BatchStream(cache, scale.hook, scale.batch, 0, resident=memory_of(scale.device), **shared)
        streamed = BatchStream(cache, scale.hook, scale.batch, 0, pool_chunks=STREAMED_POOL_CHUNKS, **shared)
        streams = [stack.enter_context(stream) for stream in (resident, streamed)]
        for name, d_sae in order(scale):
            key = f"{name} {d_sae}"
            if session.budget.left < 0:
                found[key] = {"skipped": "the part's time was up"}
                print(f"  {key}: skipped, the part's time was up", flush=True)
                continue
            found[key] = attempt(
                key,
                lambda name=name, d_sae=d_sae: one_width(
                    scale, name, d_sae, *(stream.batches for stream in streams), sparse=session.kernels_right
                ),
            )
            torch.compiler.reset()
    return found


def order(scale: Scale) -> list[tuple[str, int]]:
    """What the aims are about comes first."""
    first = [("relu", 16_384), ("topk", 65_536)]
    every = [(name, d_sae) for d_sae in scale.d_saes for name in ARCHITECTURES]
    return [pair for pair in first if pair in every] + [pair for pair in every if pair not in first]


def one_width(
    scale: Scale, name: str, d_sae: int, resident: Batches, streamed: Batches, *, sparse: bool
) -> dict[str, Any]:
    settled = settle(scale, name, d_sae, next(resident()).to(scale.device))
    entries = contenders(scale, settled, resident, streamed, sparse=sparse)
    print(f"  {name}, d_sae {d_sae:,}, L0 {settled.l0:.1f}", flush=True)
    found: dict[str, Any] = {}
    made: dict[str, Contender] = {}
    for contender, entry in entries.items():
        if reason := too_large(scale, d_sae, entry):
            found[contender] = {"skipped": reason}
            continue

        def warm(contender: str = contender, entry: Entry = entry) -> dict[str, Any]:
            made[contender] = ready(entry.make, scale.device, scale.turn_seconds, least_calls=entry.least_calls)
            return {}

        found[contender] = attempt(f"{name} {d_sae}, {contender}", warm)
    timings = in_turns(made, scale.device, scale.rounds)
    for contender, timing in timings.items():
        figures = figures_of(scale, d_sae, entries[contender].runs, timing, timings[MATMUL], made[contender])
        found[contender] = figures if contender != MATMUL else {"ms": figures["ms"], "tflop_s": figures["tflop_s"] / 5}
        shown = (f"{found[contender][key]:,.4g} {key}" for key in SHOWN if key in found[contender])
        print(f"    {contender:24}  {'   '.join(shown)}", flush=True)
    return {"l0": settled.l0, "contenders": found}


def figures_of(
    scale: Scale, d_sae: int, runs: int, timing: Timing, matmul: Timing, made: Contender
) -> dict[str, float]:
    flop = 10.0 * scale.batch * scale.d_in * d_sae * runs
    found = {
        "ms": 1e3 * timing.seconds,
        "tokens_s": scale.batch * runs / timing.seconds,
        "tflop_s": flop / timing.seconds / 1e12,
        "share_of_matmul": 5 * runs * matmul.seconds / timing.seconds,
        "ms_fastest_turn": 1e3 * min(timing.turns),
        "ms_slowest_turn": 1e3 * max(timing.turns),
        "first_call_s": made.first_seconds,
    }
    return found if made.peak_bytes is None else found | {"peak_gib": made.peak_bytes / 2**30}
