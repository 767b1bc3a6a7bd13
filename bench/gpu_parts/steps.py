"""Step time, tokens/s and share of the matmul ceiling, dense and sparse, beside compiled plain PyTorch, in turns.

A step counts as five dense products, 10 * batch * d_in * d_sae operations: two for the encoder and its gradient, two
for the decoder and its gradient, one for the activations' gradient. A sparse step is counted the same, so its share
says what a dense one would have to reach, and can exceed 1. The ceiling is the encoder's product in the same dtype,
measured in the same turns. Batches come shuffled from a cache in the device's memory; `streamed` ones from disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from gpu_parts import material
from gpu_parts.loader import memory_of
from gpu_parts.plain import compiled_step
from gpu_parts.scale import Scale
from gpu_parts.session import Session
from gpu_parts.settled import ARCHITECTURES, Settled, fresh, recipe_of, settle
from gpu_parts.timing import Contender, Timing, Work, attempt, in_turns, ready
from torch import Tensor

from saepipe.data.batches import BatchStream
from saepipe.train.stack import Stack
from saepipe.train.step import train_step

MATMUL = "matmul"
PLAIN = "plain, compiled"

SHOWN = ("ms", "tokens_s", "tflop_s", "share_of_matmul", "peak_gib")

Batches = Callable[[], Iterator[Tensor]]


def measure(session: Session) -> dict[str, Any]:
    """By architecture and width; what the part's time does not suffice for says so."""
    scale, found = session.scale, {}
    cache = material.shared_cache(session.folder, scale)
    with ExitStack() as stack:
        shared = {"device": scale.device}
        resident = BatchStream(cache, scale.hook, scale.batch, 0, resident=memory_of(scale.device), **shared)
        streamed = BatchStream(cache, scale.hook, scale.batch, 0, **shared)
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
    makers = contenders(scale, settled, resident, streamed, sparse=sparse)
    print(f"  {name}, d_sae {d_sae:,}, L0 {settled.l0:.1f}", flush=True)
    found: dict[str, Any] = {}
    made: dict[str, Contender] = {}
    for contender, (runs, make) in makers.items():
        if reason := too_large(scale, d_sae, runs, at_once=contender.startswith("stacked")):
            found[contender] = {"skipped": reason}
            continue

        def warm(contender: str = contender, make: Callable[[], Work] = make) -> dict[str, Any]:
            made[contender] = ready(make, scale.device, scale.turn_seconds)
            return {}

        found[contender] = attempt(f"{name} {d_sae}, {contender}", warm)
    timings = in_turns(made, scale.device, scale.rounds)
    for contender, timing in timings.items():
        figures = figures_of(scale, d_sae, makers[contender][0], timing, timings[MATMUL], made[contender])
        found[contender] = figures if contender != MATMUL else {"ms": figures["ms"], "tflop_s": figures["tflop_s"] / 5}
        shown = (f"{found[contender][key]:,.4g} {key}" for key in SHOWN if key in found[contender])
        print(f"    {contender:24}  {'   '.join(shown)}", flush=True)
    return {"l0": settled.l0, "contenders": found}


def contenders(
    scale: Scale, settled: Settled, resident: Batches, streamed: Batches, *, sparse: bool
) -> dict[str, tuple[int, Callable[[], Work]]]:
    """By name: how many runs it trains at a time, and how it is made."""
    recipe = recipe_of(scale, settled.name, settled.d_sae, settled.scale, "never", seed=0)

    def plain() -> Work:
        inputs = map(recipe.scaled, resident())
        lr = recipe.config.optimizer.lr
        return compiled_step(settled.name, settled.params, inputs, recipe.dtype, scale.active, lr)

    def ours(sparse_steps: str, runs: int, batches: Batches) -> Callable[[], Work]:
        return lambda: train_all(scale, settled, sparse_steps, runs, batches())

    found = {MATMUL: (1, lambda: encoder_product(scale, settled, recipe.dtype)), PLAIN: (1, plain)}
    for path, sparse_steps in (("dense", "never"), ("sparse", "always")):
        if path == "sparse" and not sparse:
            continue
        found[path] = (1, ours(sparse_steps, 1, resident))
        found[f"{path}, {scale.num_variants} variants"] = (
            scale.num_variants, ours(sparse_steps, scale.num_variants, resident)
        )  # fmt: skip
        found[f"{path}, streamed"] = (1, ours(sparse_steps, 1, streamed))
    together = scale.num_variants
    found[f"stacked, {together} variants"] = (together, lambda: train_stacked(scale, settled, together, resident()))
    return found


def encoder_product(scale: Scale, settled: Settled, dtype: torch.dtype) -> Work:
    left = torch.randn(scale.batch, scale.d_in, device=scale.device, dtype=dtype)
    right = settled.params["W_enc"].to(dtype)
    return lambda: left @ right


def train_all(scale: Scale, settled: Settled, sparse_steps: str, runs: int, batches: Iterator[Tensor]) -> Work:
    """One step of each of `runs` runs a call, all on one batch, as `train` goes about it."""
    states = [fresh(scale, settled, sparse_steps, seed) for seed in range(runs)]

    def step() -> None:
        rows = next(batches)
        for recipe, state in states:
            train_step(recipe, state, rows)

    return step


def train_stacked(scale: Scale, settled: Settled, runs: int, batches: Iterator[Tensor]) -> Work:
    """The same as one batched step, dense, whatever the rule says of shapes as large as these."""
    stack = Stack([fresh(scale, settled, "never", seed) for seed in range(runs)])
    return lambda: stack.step(stack.first.scaled(next(batches)))


def too_large(scale: Scale, d_sae: int, runs: int, *, at_once: bool) -> str:
    """Why that many runs, one after the other or at once, do not fit beside the other contenders; empty if they do."""
    if scale.device.type != "cuda":
        return ""
    params = 2 * scale.d_in * d_sae
    # Parameters and two moments of each; one gradient, its dtype's copies and a handful of (batch, d_sae) at a time.
    needed = 12 * params * runs + (12 * params + 24 * scale.batch * d_sae) * (runs if at_once else 1)
    free, _ = torch.cuda.mem_get_info(scale.device)
    return f"needs {needed / 2**30:.0f} GiB, {free / 2**30:.0f} are free" if needed > 0.9 * free else ""


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
