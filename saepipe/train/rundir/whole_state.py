"""The whole state of a run over ranks, in the first rank's memory, for what is written and judged there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from saepipe.data.errors import CorruptDataError
from saepipe.train.parallel.mesh import Mesh
from saepipe.train.parallel.split_params import collected
from saepipe.train.rundir.checkpoint import differing_tensors
from saepipe.train.sae.base import Params
from saepipe.train.step.state import Recipe, TrainState


def whole_state(recipe: Recipe, state: TrainState) -> TrainState | None:
    """Returns the state as one process would have it, on the CPU; None on every rank but the first.

    All ranks must call it. The first one's memory then holds all parameters and moments, 12 bytes per parameter.
    """
    mesh = recipe.mesh
    if mesh is None:
        return state

    def whole(name: str, part: Tensor) -> Tensor:
        return collected(name, part.detach(), mesh, recipe.config.sae.d_sae)

    def all_whole(params: Params) -> Params:
        return {name: whole(name, part) for name, part in params.items()}

    moments = {
        name: {key: whole(name, part) if part.dim() else part for key, part in kept.items()}
        for name, kept in state.moments.items()
    }
    gathered = replace(state, params=all_whole(state.params), buffers=all_whole(state.buffers), moments=moments)
    return gathered if mesh.is_first else None


def check_saved(checkpoint: Path, recipe: Recipe, state: TrainState, mesh: Mesh) -> None:
    """Reads a checkpoint back: every rank compares its part with what it has, bit for bit.

    Raises:
        CorruptDataError: on every rank, if one of them finds a difference.
    """
    mesh.meet(f"saved step {state.step:,}")
    for rank, names in enumerate(mesh.of_all(differing_tensors(checkpoint, recipe, state))):
        if names:
            message = f"{checkpoint} does not hold what rank {rank} has: {', '.join(names)}"
            raise CorruptDataError(message, hint="does every rank see the same folder?")


def alone(recipe: Recipe) -> Recipe:
    """Returns the recipe by which one process goes on from a whole state: on the CPU, where that is."""
    return recipe if recipe.mesh is None else replace(recipe, mesh=None, device=torch.device("cpu"))
