"""The contenders at one architecture and width: ours on both paths, alone and together, captured; and plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from gpu_parts.plain import compiled_step, eager_step
from gpu_parts.scale import Scale
from gpu_parts.settled import Settled, new_run, recipe_of
from gpu_parts.timing import Work, release
from torch import Tensor

from saepipe.train.captured.captured_run import CapturedRun
from saepipe.train.captured.inductor import inductor
from saepipe.train.captured.runners import WARM_UP_STEPS, CudaGraph, Runner
from saepipe.train.stacked.stack import Stack
from saepipe.train.step.step import train_step

MATMUL = "matmul"
PLAIN = "plain"
COMPILED = "plain, compiled"
GRAPHED = "dense, graphed"
INDUCTOR = "dense, inductor"
STREAMED_POOL_CHUNKS, STREAMED_CALLS = 16, 60  # at most 8 of 60 batches of 4,096 rows are decoded when a turn begins

Batches = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class Entry:
    """A contender that has not been built yet."""

    make: Callable[[], Work]
    runs: int = 1  # trained by each call
    at_once: bool = False  # whether the temporary arrays of all runs are in memory at once
    skipped: str = ""  # why it cannot be measured on this device
    min_calls: int = 1  # per turn


def contenders(
    scale: Scale, settled: Settled, resident: Batches, streamed: Batches, *, sparse: bool, compiles: bool
) -> dict[str, Entry]:
    """Returns the contenders by name. Only the faster path is streamed: it leaves a loader the least time.

    Only if it `compiles` do our steps compete as torch.compile makes them, which takes longest to begin.
    """
    recipe = recipe_of(scale, settled.name, settled.d_sae, settled.scale, "never", seed=0)
    several = scale.num_variants

    def plain(make: Callable[..., Work]) -> Callable[[], Work]:
        arguments = recipe.dtype, scale.active, recipe.config.optimizer.lr
        return lambda: make(settled.name, settled.params, map(recipe.scaled, resident()), *arguments)

    def ours(sparse_steps: str, runs: int, batches: Batches) -> Callable[[], Work]:
        return lambda: train_all(scale, settled, sparse_steps, runs, batches())

    entries = {MATMUL: Entry(lambda: encoder_product(scale, settled, recipe.dtype))}
    entries |= {PLAIN: Entry(plain(eager_step)), COMPILED: Entry(plain(compiled_step))}
    paths = {"dense": "never", "sparse": "always"} if sparse else {"dense": "never"}
    for path, sparse_steps in paths.items():
        entries[path] = Entry(ours(sparse_steps, 1, resident))
        if path == "dense":
            entries |= captured_entries(scale, settled, resident, compiles=compiles)
        entries[f"{path}, {several} variants"] = Entry(ours(sparse_steps, several, resident), several)
    fastest = "sparse" if sparse else "dense"
    entries[f"{fastest}, streamed"] = Entry(ours(paths[fastest], 1, streamed), min_calls=STREAMED_CALLS)
    entries[f"stacked, {several} variants"] = Entry(
        lambda: train_stacked(scale, settled, several, resident()), several, at_once=True
    )
    return entries


def captured_entries(scale: Scale, settled: Settled, batches: Batches, *, compiles: bool) -> dict[str, Entry]:
    """Returns our dense steps of one run without Python: as CUDA graphs and, if it `compiles`, by inductor."""
    on_cuda = scale.device.type == "cuda"
    # On a CPU, for which nothing is claimed, Inductor would need a C++ compiler.
    compiler = partial(inductor, backend="inductor" if on_cuda else "aot_eager")
    reason = "" if on_cuda else "CUDA graphs need CUDA"
    graphed = {GRAPHED: Entry(lambda: train_captured(scale, settled, CudaGraph, batches()), skipped=reason)}
    compiled = {INDUCTOR: Entry(lambda: train_captured(scale, settled, compiler, batches()))}
    return graphed | compiled if compiles else graphed


def encoder_product(scale: Scale, settled: Settled, dtype: torch.dtype) -> Work:
    left = torch.randn(scale.batch, scale.d_in, device=scale.device, dtype=dtype)
    right = settled.params["W_enc"].to(dtype)
    return lambda: left @ right


def train_all(scale: Scale, settled: Settled, sparse_steps: str, runs: int, batches: Iterator[Tensor]) -> Work:
    """Returns work that makes one step of each of `runs` runs per call, all on one batch, as `train` does."""
    states = [new_run(scale, settled, sparse_steps, seed) for seed in range(runs)]

    def step() -> None:
        rows = next(batches)
        for recipe, state in states:
            train_step(recipe, state, rows)

    return step


def train_captured(scale: Scale, settled: Settled, runner: Runner, batches: Iterator[Tensor]) -> Work:
    """Returns work that makes one captured step per call; the calls before it is captured are not timed."""
    run = CapturedRun(*new_run(scale, settled, "never", seed=0), runner)
    for _ in range(WARM_UP_STEPS + 2):  # a plain step, the graph's warm-up, and the capture
        run.step(next(batches))
    return lambda: run.step(next(batches))


def train_stacked(scale: Scale, settled: Settled, runs: int, batches: Iterator[Tensor]) -> Work:
    """Returns work that makes the same steps as one batched dense step, although the rule stacks no such shapes."""
    stack = Stack([new_run(scale, settled, "never", seed) for seed in range(runs)])
    return lambda: stack.step(stack.first.scaled(next(batches)))


def unfit(scale: Scale, d_sae: int, entry: Entry) -> str:
    """Returns why the contender cannot run here, or not in the memory that the others leave; empty if it can."""
    if entry.skipped or scale.device.type != "cuda":
        return entry.skipped
    params = 2 * scale.d_in * d_sae
    # Parameters and their two moments; one gradient, copies in its dtype and a few (batch, d_sae) arrays at a time.
    temporary = (12 * params + 24 * scale.batch * d_sae) * (entry.runs if entry.at_once else 1)
    needed = 12 * params * entry.runs + temporary
    release()
    free, _ = torch.cuda.mem_get_info(scale.device)
    return f"needs {needed / 2**30:.0f} GiB, {free / 2**30:.0f} are free" if needed > 0.9 * free else ""
