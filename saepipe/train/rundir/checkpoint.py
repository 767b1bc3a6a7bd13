"""A run's state on disk: 10 steps, a kill and 10 more steps equal 20, bit for bit on a CPU.

`checkpoints/<step>/state.safetensors` holds the tensors; `state.json`, renamed into place after it, makes it valid.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from saepipe.data.folders.artifact import digest_file, write_file, write_json
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params

NUM_KEPT = 2
TENSORS, INDEX = "state.safetensors", "state.json"


def save_checkpoint(folder: Path, run_id: str, state: TrainState) -> None:
    """Writes `folder`/<step>/ atomically and deletes all checkpoints but the last two.

    Raises:
        OutOfSpaceError: if the disk is full.
    """
    checkpoint = folder / str(state.step)
    write_file(checkpoint / TENSORS, save({name: tensor.contiguous() for name, tensor in _tensors(state).items()}))
    index = {"run_id": run_id, "step": state.step, "num_summed": state.num_summed}
    index |= {"sparse": state.sparse, **digest_file(checkpoint / TENSORS)}
    write_json(checkpoint / INDEX, index)
    for old in sorted(folder.iterdir(), key=lambda path: int(path.name))[:-NUM_KEPT]:
        (old / INDEX).unlink(missing_ok=True)
        shutil.rmtree(old)


def last_checkpoint(folder: Path, run_id: str) -> Path | None:
    """Returns the latest intact checkpoint with this run id, or None if there is none."""
    intact = [path.parent for path in folder.glob(f"*/{INDEX}") if _is_intact(path.parent, run_id)]
    return max(intact, key=lambda path: int(path.name), default=None)


def load_checkpoint(path: Path, recipe: Recipe) -> TrainState:
    """Returns the state that `save_checkpoint` was given, on the recipe's device."""
    tensors = load_file(path / TENSORS)
    index = json.loads((path / INDEX).read_text())
    state = fresh_state(recipe, initial_params(recipe))
    with torch.no_grad():
        for name, tensor in _tensors(state).items():
            tensor.copy_(tensors[name])
    state.step, state.num_summed = index["step"], index["num_summed"]
    if recipe.config.sparse_steps == "auto":
        state.sparse = index["sparse"]
    return state


def _tensors(state: TrainState) -> dict[str, Tensor]:
    """Returns every tensor of the state (not a copy) under a unique name."""
    named = {"tokens_since_fired": state.tokens_since_fired, "sums": state.sums}
    for name, parameter in state.params.items():
        named[f"params/{name}"] = parameter.detach()
        named |= {f"adam/{name}/{key}": value for key, value in state.moments[name].items()}
    named |= {f"buffers/{name}": tensor for name, tensor in state.buffers.items()}
    named |= {f"steered/{name}": tensor for name, tensor in state.steered.items()}
    for label, tensors in state.states.items():
        named |= {f"states/{label}/{name}": tensor for name, tensor in tensors.items()}
    return named


def _is_intact(folder: Path, run_id: str) -> bool:
    index = json.loads((folder / INDEX).read_text())
    tensors = folder / TENSORS
    return (
        index["run_id"] == run_id
        and tensors.is_file()
        and digest_file(tensors) == {key: index[key] for key in ("bytes", "xxh3")}
    )
