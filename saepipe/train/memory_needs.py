"""What a training needs in memory, from shapes alone: for dry runs, and to refuse a training that cannot fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from saepipe.data.batches.memory import free_ram
from saepipe.data.batches.rank_memory import PROGRAM, RankMemory
from saepipe.data.batches.stream import POOL_CHUNKS
from saepipe.data.cache.joined_rows import joined
from saepipe.data.errors import OutOfSpaceError
from saepipe.data.terminal.display import readable_bytes
from saepipe.train.plan import Planned
from saepipe.train.sae.encoding import PIECE
from saepipe.train.sae.screen import width
from saepipe.train.sae.screening import screens
from saepipe.train.step.allocator import return_freed_memory
from saepipe.train.step.density import starts_sparse
from saepipe.train.step.state import Recipe

FLOAT = 4
"""Bytes of a float32: of parameters, gradients and moments."""

PIECE_ARRAYS = 1.9
"""Arrays (tokens, d_sae) that a sparse step holds while it looks for the entries of some tokens."""

TOKEN_ARRAYS = 3
"""Arrays (batch, d_in) float32 that a step holds at its peak, besides each reconstruction."""


@dataclass(frozen=True)
class MemoryNeeds:
    """Bytes that runs with a common stream need, besides some 0.35 GB of the program itself."""

    parameters: int
    """of all runs, with Adam's moments"""
    rows: int
    """of the stream: two pools of rows, or a resident cache"""
    step: int
    """gradients and activations of the largest step; runs make their steps in turn"""

    @property
    def total(self) -> int:
        return self.parameters + self.rows + self.step

    def of_ranks(self, count: int) -> int:
        """Returns the bytes of ranks on one machine that each train as much, from one stream."""
        return count * (self.parameters + self.step) + self.rows


def memory_needs(runs: Sequence[Planned]) -> MemoryNeeds:
    """Returns what runs with a common stream need when they train together, over all ranks of this machine."""
    mesh, needs = runs[0].recipe.mesh, rank_needs(runs)
    num_ranks = 1 if mesh is None else mesh.ranks.local_size
    return MemoryNeeds(num_ranks * needs.parameters, num_ranks * needs.rows, num_ranks * needs.step)


def rank_needs(runs: Sequence[Planned]) -> MemoryNeeds:
    """Returns what one rank needs for runs with a common stream, which may be split over others."""
    parts = [replace(run, recipe=of_rank(run.recipe)) for run in runs]
    return MemoryNeeds(
        parameters=sum(FLOAT * run.num_checkpointed for run in parts),
        rows=max(map(_row_bytes, parts)),
        step=max(step_bytes(run.recipe) for run in parts),
    )


def rank_memory(runs: Sequence[Planned]) -> RankMemory:
    """Returns what one rank needs for runs with a common stream, by host and device, with the program."""
    recipe, needs = runs[0].recipe, rank_needs(runs)
    rows_on_host = needs.rows if recipe.config.resident == "ram" else 0
    on_device = needs.total - rows_on_host
    return RankMemory.of(recipe.device, host=PROGRAM + rows_on_host, on_device=on_device)


def of_rank(recipe: Recipe) -> Recipe:
    """Returns the recipe of an SAE with this rank's latents, on as many tokens as it has."""
    mesh, config = recipe.mesh, recipe.config
    if mesh is None:
        return recipe
    sae = config.sae.part(mesh.latents.part(config.sae.d_sae))
    batch_size = len(mesh.tokens.part(config.batch_size))
    return replace(recipe, config=config.model_copy(update={"sae": sae, "batch_size": batch_size}))


def step_bytes(recipe: Recipe) -> int:
    """Returns the bytes of a step's gradients and activations at its peak.

    A run that becomes sparse later needs what its first, dense steps need; with a scheduled k, the larger of both ends.
    """
    return max(_bytes_of_one(recipe.at(step)) for step in (0, recipe.num_steps - 1))


def _bytes_of_one(recipe: Recipe) -> int:
    """Returns the bytes of a step by the recipe of that step."""
    config, batch = recipe.config, recipe.config.batch_size
    sae, penalties = config.sae, config.penalties
    latents, weights = recipe.dtype.itemsize * sae.d_sae, FLOAT * max(recipe.d_in, recipe.d_out) * sae.d_sae
    forgets = not (config.transforms or any(penalty.reads_pre_acts(sae) == "all" for penalty in penalties))
    if starts_sparse(config, recipe.d_in, recipe.device) and forgets and recipe.device.type == "cpu":
        forward, kept = int(PIECE_ARRAYS * latents * min(batch, PIECE)), 0
    else:
        arrays = sae.dense_arrays + max((penalty.held_arrays() for penalty in penalties), default=0)
        forward, kept = int(arrays * latents * batch) + weights, 2 * latents * batch
    # The peak is where the gradients of the activations begin, or at the end, where those of both weights are there.
    skip = recipe.d_in * recipe.d_out if config.skip else 0
    gradients = FLOAT * ((recipe.d_in + recipe.d_out) * sae.d_sae + skip)
    target = recipe.d_out if recipe.target else 0
    per_token = (TOKEN_ARRAYS + sae.held_rows) * recipe.d_in + sae.num_reconstructions * recipe.d_out
    tokens = int(FLOAT * batch * (per_token + 2 * target))
    return max(forward, kept + gradients) + tokens + screen_bytes(recipe)


def screen_bytes(recipe: Recipe) -> int:
    """Returns the bytes of the screen of a sparse step, if it has one: rounded directions, bounds of a piece, a mask.

    They are added to the peak, although they are gone by then, since what is freed before has other sizes.
    """
    config, sae = recipe.config, recipe.config.sae
    sparse = starts_sparse(config, recipe.d_in, recipe.device)
    if not (sparse and sae.holds("floor") and screens(config.screening, recipe.device, recipe.dtype)):
        return 0
    return 2 * width(recipe.d_in) * sae.d_sae + 3 * sae.d_sae * min(config.batch_size, PIECE)


def _row_bytes(run: Planned) -> int:
    recipe = run.recipe
    rows = joined([run.cache.rows(hook) for hook in recipe.config.read_hooks])
    row_bytes = 2 * rows.width
    if recipe.config.resident != "none":
        return row_bytes * rows.num_chunks * rows.chunk_rows
    if rows.zero_copy:
        return 0
    return 2 * row_bytes * rows.chunk_rows * min(POOL_CHUNKS, rows.num_chunks)


def require_memory(runs: Sequence[Planned], num_ranks: int = 1) -> None:
    """Refuses runs with a common stream that cannot fit into the memory that is free, on a CPU.

    Args:
        runs: of this process; none need nothing.
        num_ranks: ranks of this machine, which train as much each.

    Raises:
        OutOfSpaceError: with what they need, and what would fit.
    """
    if not runs or runs[0].recipe.device.type != "cpu":
        return
    needs, free = memory_needs(runs), free_ram()
    if needs.of_ranks(num_ranks) > free:  # an earlier training in this process may have kept some
        return_freed_memory()
        free = free_ram()
    if needs.of_ranks(num_ranks) > free:
        each = f"on each of {num_ranks} ranks, " if num_ranks > 1 else ""
        free_bytes = readable_bytes(int(free))
        raise OutOfSpaceError(f"{each}{_sentence(runs, needs)}, but {free_bytes} are free", hint=_less(runs))


def out_of_memory(runs: Sequence[Planned], error: BaseException) -> OutOfSpaceError:
    """Returns the error for runs that trained together until memory ran out."""
    reason = next(iter(str(error).splitlines()), "") or "nothing more could be allocated"
    return OutOfSpaceError(f"out of memory: {reason}\n  {_sentence(runs, memory_needs(runs))}", hint=_less(runs))


def _sentence(runs: Sequence[Planned], needs: MemoryNeeds) -> str:
    count = "1 run needs" if len(runs) == 1 else f"{len(runs)} runs need"
    parts = f"{readable_bytes(needs.parameters)} for parameters and Adam's moments"
    if needs.rows:
        parts += f", {readable_bytes(needs.rows)} for rows of the cache"
    batch_size = runs[0].recipe.config.batch_size
    step = f"{readable_bytes(needs.step)} for a step with a batch of {batch_size:,}"
    return f"{count} about {readable_bytes(needs.total)} of memory: {parts} and {step}"


def _less(runs: Sequence[Planned]) -> str:
    half = max(1, runs[0].recipe.config.batch_size // 2)
    fewer = "fewer variants or seeds in a call, or " if len(runs) > 1 else ""
    return f"batch_size: {half} halves the activations; {fewer}a smaller d_sae needs less for parameters"
