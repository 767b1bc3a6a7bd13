"""Digests of what a model computes with: its weights, and the code that came with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import xxhash

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_REMOTE = "transformers_modules"
"""Package below which transformers imports the code of models."""


def weights_digest(model: PreTrainedModel) -> str:
    """Returns the digest of all weights by name, wherever they are; loads those that are on disk one by one."""
    state = xxhash.xxh3_128()
    for name, tensor in _weights(model):
        state.update(name.encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return state.hexdigest()


def _weights(model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    for name, tensor in sorted(model.state_dict().items()):
        if not tensor.is_meta:
            yield name, tensor
            continue
        from accelerate.utils import align_module_device

        module, _, parameter = name.rpartition(".")
        with align_module_device(model.get_submodule(module), execution_device=torch.device("cpu")):
            yield name, getattr(model.get_submodule(module), parameter)


def code_digest(*parts: Any) -> str | None:
    """Returns the digest of the code that came with a model or its tokenizer; None if transformers has it all."""
    names = [type(part).__module__ for part in parts]
    packages = {name.rpartition(".")[0] for name in names if name.split(".")[0] == _REMOTE}
    if not packages:
        return None
    state = xxhash.xxh3_128()
    for name, module in sorted(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path and name.rpartition(".")[0] in packages:
            state.update(name.rpartition(".")[2].encode())
            state.update(Path(path).read_bytes())
    return state.hexdigest()
