"""Who takes turns at one architecture and width: ours on both paths, one run and several, and plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from gpu_parts.plain import compiled_step
from gpu_parts.scale import Scale
from gpu_parts.settled import Settled, fresh, recipe_of
from gpu_parts.timing import Work, release
from torch import Tensor

from saepipe.train.stacked.stack import Stack
from saepipe.train.step.step import train_step

MATMUL = "matmul"
PLAIN = "plain, compiled"
STREAMED_POOL_CHUNKS, STREAMED_CALLS = 16, 60  # at most 8 of 60 batches of 4,096 rows are at hand when a turn begins

Batches = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class Entry:
    """A contender before it is made."""

    make: Callable[[], Work]
    runs: int = 1  # trained by each call
    at_once: bool = False  # whether they all are in memory at once, or one after the other
    least_calls: int = 1  # a turn


def contenders(
    scale: Scale, settled: Settled, resident: Batches, streamed: Batches, *, sparse: bool
) -> dict[str, Entry]:
    """By name. Streamed is the path that leaves a loader the least time."""
    recipe = recipe_of(scale, settled.name, settled.d_sae, settled.scale, "never", seed=0)
    several = scale.num_variants

    def plain() -> Work:
        inputs = map(recipe.scaled, resident())
        lr = recipe.config.optimizer.lr
        return compiled_step(settled.name, settled.params, inputs, recipe.dtype, scale.active, lr)

    def ours(sparse_steps: str, runs: int, batches: Batches) -> Callable[[], Work]:
        return lambda: train_all(scale, settled, sparse_steps, runs, batches())

    found = {MATMUL: Entry(lambda: encoder_product(scale, settled, recipe.dtype)), PLAIN: Entry(plain)}
    paths = {"dense": "never", "sparse": "always"} if sparse else {"dense": "never"}
    for path, sparse_steps in paths.items():
        found[path] = Entry(ours(sparse_steps, 1, resident))
        found[f"{path}, {several} variants"] = Entry(ours(sparse_steps, several, resident), several)
    fastest = "sparse" if sparse else "dense"
    found[f"{fastest}, streamed"] = Entry(ours(paths[fastest], 1, streamed), least_calls=STREAMED_CALLS)
    found[f"stacked, {several} variants"] = Entry(
        lambda: train_stacked(scale, settled, several, resident()), several, at_once=True
    )
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


def too_large(scale: Scale, d_sae: int, entry: Entry) -> str:
    """Why the contender does not fit in the memory that the others leave; empty if it does."""
    if scale.device.type != "cuda":
        return ""
    params = 2 * scale.d_in * d_sae
    # Parameters and two moments of each; one gradient, its dtype's copies and a handful of (batch, d_sae) at a time.
    passing = (12 * params + 24 * scale.batch * d_sae) * (entry.runs if entry.at_once else 1)
    needed = 12 * params * entry.runs + passing
    release()
    free, _ = torch.cuda.mem_get_info(scale.device)
    return f"needs {needed / 2**30:.0f} GiB, {free / 2**30:.0f} are free" if needed > 0.9 * free else ""
