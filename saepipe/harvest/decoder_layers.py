"""The decoder layers of a model; the only file that knows Hugging Face's names for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from saepipe.data.errors import MachineError

if TYPE_CHECKING:  # only its name is needed, and it takes seconds to import
    from transformers import PreTrainedModel

_LAYER_LISTS = ("layers", "h", "blocks", "decoder.layers", "language_model.layers")


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Returns the model's decoder layers in order; raises MachineError for an unsupported architecture."""
    body = model.base_model
    for path in _LAYER_LISTS:
        try:
            layers = body.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(layers, nn.ModuleList):
            return layers
    message = f"{type(model).__name__} has no decoder layers at any of: {', '.join(_LAYER_LISTS)}"
    raise MachineError(message, hint="add the path of its layers")


def layer_output(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Extracts the residual stream from a decoder layer's output, a tensor or a tuple that starts with it."""
    return output if isinstance(output, torch.Tensor) else output[0]
