"""What `saepipe train --dry-run` tells: steps, passes, time, memory and bytes on disk of every run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from torch import Tensor

from saepipe.data.batches.rank_memory import RankMemory
from saepipe.data.cache.bucket_reads import BucketReads, bucket_reads
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.display import readable_bytes, readable_time
from saepipe.train.config import TrainConfig
from saepipe.train.from_harvest import check_streamed
from saepipe.train.memory_needs import of_rank, rank_memory, rank_needs
from saepipe.train.parallel.mesh import planned_mesh
from saepipe.train.plan import Planned, by_stream, plan_runs
from saepipe.train.stacked.stack import structure
from saepipe.train.step.state import Recipe, fresh_state, initial_params
from saepipe.train.step.step import train_step

CALIBRATION_SECONDS = 2.0
"""Time in which steps are tried, over all runs."""


@dataclass(frozen=True)
class RunCost:
    """Cost of one run, if it trains alone."""

    run: str
    run_id: str
    steps: int
    tokens: int
    passes: float
    """passes over the cache's training rows"""
    tail_steps: int
    """last steps, which run the language model too; their time is not in that of a step"""
    tail_tokens: int
    """tokens of windows in those steps: the clean model's, shared by runs of a stream, and again the run's own"""
    step_seconds: float
    seconds: float
    memory_bytes: int
    """of a rank: parameters and Adam's moments, rows of the cache, gradients and activations of a step"""
    sae_bytes: int
    checkpoint_bytes: int


@dataclass(frozen=True)
class DryRun:
    """Cost of a study."""

    runs: tuple[RunCost, ...]
    streams: int
    """passes over caches that runs share"""
    device: str
    seconds: float
    """of all runs, one after another"""
    memory_bytes: int
    """of a rank, for the runs that it trains at the same time"""
    free_bytes: int
    """memory that is free now"""
    memory: RankMemory
    """of the rank that needs most, with the program"""
    ranks: int
    is_split: bool
    """whether each run is split over all ranks, by `parallel`"""
    runs_of_a_rank: int
    """runs that the first rank trains"""
    rank_seconds: float
    """time of the slowest rank"""
    rank_hours: float
    """of all ranks until the slowest has ended"""
    cost: str | None
    """of those hours, if the config has a rate"""
    buckets: tuple[BucketReads, ...] = ()
    """what reading caches in buckets takes"""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def dry_run(
    config: TrainConfig,
    *,
    ranks: int | None = None,
    seconds: float = CALIBRATION_SECONDS,
    opened: Mapping[Path, Cache] = MappingProxyType({}),
) -> DryRun:
    """Plans every run like `train`, and times some of their steps; writes nothing.

    Args:
        config: with its variants and seeds. Of a run that is split over ranks, one rank's part is tried here.
        ranks: among which the runs are dealt out; default: as many as `parallel` needs.
        seconds: time for trying steps.
        opened: caches that are open already, by their paths.

    Raises:
        ConfigError: if a run cannot be made, or `parallel` needs another number of ranks.
    """
    mesh, num_ranks = planned_mesh(config.parallel), _num_ranks(config, ranks)
    planned = plan_runs(config, Path(), mesh, opened)
    check_streamed(planned)
    by_kind = _time_kinds(planned, seconds)
    costs = tuple(_cost(run, by_kind[_kind(run.recipe)]) for run in planned)
    own = [slice(0, None)] if mesh else [slice(rank, None, num_ranks) for rank in range(min(num_ranks, len(planned)))]
    streams = [runs for part in own for runs in by_stream(planned[part])]
    slowest = max(sum(cost.seconds for cost in costs[part]) for part in own)
    needs = max((rank_memory(runs) for runs in streams), key=lambda memory: memory.host + memory.device)
    rank_hours = num_ranks * slowest / 3600
    return DryRun(
        runs=costs,
        streams=len(by_stream(planned)),
        device=str(planned[0].recipe.device),
        seconds=sum(cost.seconds for cost in costs),
        memory_bytes=max(rank_needs(runs).total for runs in streams),
        free_bytes=needs.free_device or needs.free_host,
        memory=needs,
        ranks=num_ranks,
        is_split=mesh is not None,
        runs_of_a_rank=len(planned[own[0]]),
        rank_seconds=slowest,
        rank_hours=rank_hours,
        cost=config.cost.price(rank_hours) if config.cost else None,
        buckets=tuple(dict.fromkeys(chain(*map(_bucket_reads, planned)))),
    )


def _bucket_reads(run: Planned) -> list[BucketReads]:
    return bucket_reads(run.cache, run.recipe.config.read_hooks)


def _num_ranks(config: TrainConfig, ranks: int | None) -> int:
    needed = config.parallel.num_ranks
    if ranks is None or ranks == needed or needed == 1:
        return ranks or needed
    raise ConfigError(f"--ranks {ranks}, but `parallel` splits each run over {needed}", hint=f"--ranks {needed}")


def _cost(run: Planned, step_seconds: float) -> RunCost:
    steps = run.recipe.num_steps
    tokens = steps * run.recipe.config.batch_size
    return RunCost(
        run=run.variant.folder,
        run_id=run.run_id,
        steps=steps,
        tokens=tokens,
        passes=tokens / run.cache.num_tokens,
        tail_steps=(tail := steps - run.recipe.tail_start),
        tail_tokens=tail * (run.recipe.config.kl_tail.windows or 0) * run.cache.attributes["context_size"],
        step_seconds=step_seconds,
        seconds=steps * step_seconds,
        memory_bytes=rank_needs([run]).total,
        sae_bytes=4 * run.num_params,
        checkpoint_bytes=4 * run.num_checkpointed,
    )


def _kind(recipe: Recipe) -> str:
    """Returns what a step's time depends on; runs that differ in seeds and weights only are of one kind."""
    return repr(structure(recipe))


def _time_kinds(planned: Iterable[Planned], seconds: float) -> Mapping[str, float]:
    """Returns the seconds per step of each kind of run."""
    first = {_kind(run.recipe): run for run in reversed([*planned])}
    return {kind: time_step(run, seconds / len(first)) for kind, run in first.items()}


def time_step(run: Planned, seconds: float) -> float:
    """Returns the mean time of a step in the middle of the run, where its penalties are on, on the cache's first rows.

    At least one step is timed, after one that is not, since that includes one-time setup. Of a run over ranks, it is a
    step of one rank's latents on its tokens, without what ranks exchange.
    """
    recipe = replace(of_rank(run.recipe), mesh=None)
    state = fresh_state(recipe, initial_params(recipe))
    state.step = recipe.num_steps // 2
    rows = _first_rows(replace(run, recipe=recipe))
    train_step(recipe, state, rows)
    times: list[float] = []
    while not times or sum(times) < seconds:
        start = time.perf_counter()
        train_step(recipe, state, rows)
        if recipe.device.type == "cuda":
            torch.cuda.synchronize(recipe.device)
        times.append(time.perf_counter() - start)
        state.step = recipe.num_steps // 2
    return fmean(times)


def _first_rows(run: Planned) -> Tensor:
    """Returns a batch of raw rows of all hooks of the run; a cache with fewer rows repeats them."""
    batch_size, hooks = run.recipe.config.batch_size, run.recipe.config.read_hooks
    rows = torch.cat([run.cache.acts(hook)[:batch_size] for hook in hooks], dim=1).to(run.recipe.device)
    return rows.repeat(-(-batch_size // len(rows)), 1)[:batch_size]


def render(plan: DryRun) -> list[RenderableType]:
    """Returns a table with a row per variant, and a sentence on the whole study."""
    table = Table("variant", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("seeds", "steps", "passes", "ms/step", "time", "memory", "disk"):
        table.add_column(heading, justify="right")
    for name, group in groupby(plan.runs, key=lambda cost: cost.run.rpartition("/")[0]):
        table.add_row(name, *_cells([*group]))
    count = f"{len(plan.runs)} run{'s' if len(plan.runs) > 1 else ''}"
    total = f"{count} on {plan.device}: about {readable_time(plan.seconds)} one after another"
    reads = f"{plan.streams} stream{'s' if plan.streams > 1 else ''} of batches"
    memory = plan.memory.sentence() + (" a rank" if plan.ranks > 1 else "")
    disk = readable_bytes(sum(cost.sae_bytes for cost in plan.runs))
    return [
        table,
        f"{total}, needs {memory}, {disk} of SAEs on disk; {reads}",
        *_rank_sentence(plan),
        *_tail_sentence(plan.runs),
        *map(str, plan.buckets),
        "Times are of a few steps tried here; reading the cache, logging and checkpoints come on top, and stacking of "
        "small runs on a GPU saves some.",
    ]


def _rank_sentence(plan: DryRun) -> list[str]:
    """Returns what the study takes over ranks, and what it costs."""
    cost = f", {plan.cost}" if plan.cost else ""
    if plan.ranks == 1:
        return [f"1 rank: {readable_time(plan.rank_seconds)}{cost}"] if cost else []
    share = f"up to {plan.runs_of_a_rank} of the runs each"
    if plan.is_split:
        share = "which split each run, without what they exchange"
    hours = f"{plan.rank_hours:.3g} hours of ranks"
    return [
        f"{plan.ranks} ranks, each as fast as this machine: {readable_time(plan.rank_seconds)}, {share}; {hours}{cost}"
    ]


def _tail_sentence(costs: Sequence[RunCost]) -> list[str]:
    """Returns what the KL tails of a study cost, unless no run has one."""
    tails = [cost for cost in costs if cost.tail_steps]
    if not tails:
        return []
    tokens = sum(cost.tail_tokens for cost in tails)
    return [
        f"KL tail: {len(tails)} of {len(costs)} runs put {tokens:,} tokens through the language model from the hook "
        f"upward, forward and backward, in {sum(cost.tail_steps for cost in tails):,} steps; the whole model runs once "
        "over the windows of a step, for all runs of a stream. Its time and memory come on top."
    ]


def _cells(costs: Sequence[RunCost]) -> tuple[str, ...]:
    first = costs[0]
    return (
        str(len(costs)),
        f"{first.steps:,}",
        f"{first.passes:.3g}",
        f"{1000 * first.step_seconds:.3g}",
        readable_time(sum(cost.seconds for cost in costs)),
        readable_bytes(first.memory_bytes),
        readable_bytes(sum(cost.sae_bytes for cost in costs)),
    )
