"""A run's state on disk: 10 steps, a kill and 10 more steps equal 20, bit for bit on a CPU.

`checkpoints/<step>/state.safetensors` holds the tensors; `state.json`, renamed into place after it, makes it valid: it
has their digest, that of `metrics.jsonl` so far, and one of itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from saepipe.data.folders.artifact import digest_file, write_file, write_json
from saepipe.data.ranks.kept import KEPT
from saepipe.train.parallel.mesh import Mesh
from saepipe.train.parallel.split_params import latent_dim
from saepipe.train.step.sampling import GradientSample
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params

NUM_KEPT = 2
TENSORS, INDEX = "state.safetensors", "state.json"


Index = Mapping[str, Any]
"""Contents of `state.json`. Checkpoints of earlier versions have no `log`, `header` and `seal`, or no `sampled`."""


class DamagedCheckpoint(Exception):  # noqa: N818 - says what a checkpoint is
    """A checkpoint cannot be used, because of the reason given."""


def save_checkpoint(
    folder: Path,
    run_id: str,
    state: TrainState,
    *,
    log: Mapping[str, Any] | None = None,
    header: Mapping[str, Any] | None = None,
) -> None:
    """Writes `folder`/<step>/ atomically and deletes all checkpoints but the last two.

    Args:
        folder: of all checkpoints of the run.
        run_id: of the run.
        state: to be saved.
        log: digest of `metrics.jsonl`, whose lines so far are on disk.
        header: what the manifest's first line says of the steps so far.

    Raises:
        OutOfSpaceError: if the disk is full.
    """
    checkpoint = folder / str(state.step)
    is_new = not (checkpoint / INDEX).exists()
    write_file(checkpoint / TENSORS, save({name: tensor.contiguous() for name, tensor in _tensors(state).items()}))
    index = {"run_id": run_id, "step": state.step, "num_summed": state.num_summed}
    index |= {"sparse": state.sparse, "sampled": _text(state.sampled), **digest_file(checkpoint / TENSORS)}
    if log is not None and header is not None:
        index |= {"log": dict(log), "header": dict(header)}
    write_json(checkpoint / INDEX, {**index, "seal": _seal(index)})
    if is_new:
        KEPT.add()
    for old in checkpoints(folder)[:-NUM_KEPT]:
        remove_checkpoint(old)


def checkpoints(folder: Path) -> list[Path]:
    """Returns the folders of checkpoints, usable or not, by step; other files and folders are none of ours."""
    steps = [path for path in folder.glob("*") if path.is_dir() and path.name.isascii() and path.name.isdecimal()]
    return sorted(steps, key=lambda path: int(path.name))


def remove_checkpoint(path: Path) -> None:
    """Removes a checkpoint in an order in which a half-removed one is never taken for a whole one."""
    (path / INDEX).unlink(missing_ok=True)
    shutil.rmtree(path)


def last_checkpoint(folder: Path, run_id: str) -> Path | None:
    """Returns the latest intact checkpoint with this run id, or None if there is none."""
    for path in reversed(checkpoints(folder)):
        try:
            read_index(path, run_id)
        except DamagedCheckpoint:
            continue
        return path
    return None


def read_index(path: Path, run_id: str) -> Index:
    """Returns the index of a checkpoint whose own files are intact.

    Raises:
        DamagedCheckpoint: if they are not, or it belongs to another run.
    """
    if not (path / INDEX).is_file():
        raise DamagedCheckpoint(f"it has no {INDEX}")
    try:
        index = json.loads((path / INDEX).read_text())
        sealed = {key: value for key, value in index.items() if key != "seal"}
        # `log` came with `seal`: an index with only one of them has lost the other.
        whole = index["seal"] == _seal(sealed) if {"seal", "log"} & index.keys() else index["step"] == int(path.name)
        run, expected = index["run_id"], {key: index[key] for key in ("bytes", "xxh3")}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedCheckpoint(f"{INDEX} is damaged") from None
    if not whole or index["step"] != int(path.name):
        raise DamagedCheckpoint(f"{INDEX} was changed after it was written")
    if run != run_id:
        raise DamagedCheckpoint(f"it belongs to run {run}, not to {run_id}")
    if not (path / TENSORS).is_file() or digest_file(path / TENSORS) != expected:
        raise DamagedCheckpoint(f"{TENSORS} is missing or damaged")
    return dict(index)


def load_checkpoint(path: Path, recipe: Recipe) -> TrainState:
    """Returns the state that `save_checkpoint` was given, on the recipe's device: of a run over ranks, one's part."""
    index = json.loads((path / INDEX).read_text())
    state = fresh_state(recipe, initial_params(recipe))
    with torch.no_grad(), safe_open(path / TENSORS, "pt") as file:
        for name, tensor in _tensors(state).items():
            tensor.copy_(_stored(file, name, tensor, recipe.mesh))
    state.step, state.num_summed = index["step"], index["num_summed"]
    if text := index.get("sampled"):
        state.sampled = GradientSample(**json.loads(text))
    if recipe.config.sparse_steps == "auto" and not recipe.config.why_dense:
        state.sparse = index["sparse"]
    return state


def differing_tensors(path: Path, recipe: Recipe, state: TrainState) -> list[str]:
    """Returns the names of the tensors whose stored bytes are not those of a rank's state."""
    with safe_open(path / TENSORS, "pt") as file:
        return [
            name
            for name, tensor in _tensors(state).items()
            if not _same_bytes(_stored(file, name, tensor, recipe.mesh), tensor.cpu())
        ]


def _same_bytes(first: Tensor, second: Tensor) -> bool:
    flat = [each.contiguous().flatten() for each in (first, second)]
    return first.shape == second.shape and torch.equal(*(each.view(torch.uint8) for each in flat))


def _stored(file: Any, name: str, part: Tensor, mesh: Mesh | None) -> Tensor:
    """Reads a tensor; of one that is split over ranks, only this rank's part."""
    dim = None if mesh is None else _split_dim(name, part)
    if mesh is None or dim is None:
        return file.get_tensor(name)
    stored = file.get_slice(name)
    latents = mesh.latents.part(stored.get_shape()[dim])
    return stored[(slice(None),) * dim + (slice(latents.start, latents.stop),)]


def _split_dim(name: str, tensor: Tensor) -> int | None:
    """Returns the dimension of a tensor, by its name in a checkpoint, that is split over ranks; None if none is."""
    kind, _, rest = name.partition("/")
    return latent_dim(rest.partition("/")[0], tensor) if kind in ("params", "adam", "buffers") else None


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


def _text(sample: GradientSample | None) -> str | None:
    """Returns a sample as text: its statistics may be NaN, which our JSON files do not hold."""
    return None if sample is None else json.dumps(asdict(sample))


def _seal(index: Mapping[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(index, sort_keys=True).encode())
