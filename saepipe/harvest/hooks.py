"""Hook points, at which activations are taken; the only file that knows Hugging Face's names for them.

`blocks.19.hook_resid_post` (TransformerLens' name) is the output of decoder layer 19, Hugging Face's
`hidden_states[20]`; `blocks.19.hook_resid_pre` is that layer's input.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from saepipe.data.errors import ConfigError, MachineError

if TYPE_CHECKING:  # only its name is needed, and it takes seconds to import
    from transformers import PreTrainedModel

_LAYER_LISTS = ("layers", "h", "decoder.layers", "language_model.layers")


@dataclass(frozen=True, order=True)
class HookPoint:
    """A point in the residual stream: before (`resid_pre`) or after (`resid_post`) a decoder layer."""

    layer: int
    kind: Literal["resid_pre", "resid_post"]

    @classmethod
    def parse(cls, name: str) -> HookPoint:
        """Parses `blocks.L.hook_resid_pre` or `blocks.L.hook_resid_post`; raises ConfigError for anything else."""
        match = re.fullmatch(r"blocks\.(0|[1-9][0-9]{0,5})\.hook_(resid_pre|resid_post)", name)
        if match is None:
            raise ConfigError(f"{name!r} is not a residual-stream hook", hint="e.g. blocks.19.hook_resid_post")
        return cls(int(match[1]), "resid_pre" if match[2] == "resid_pre" else "resid_post")

    @property
    def num_layers_below(self) -> int:
        """Number of decoder layers that have run before this point."""
        return self.layer + (self.kind == "resid_post")

    def check_in(self, model: PreTrainedModel) -> None:
        """Raises ConfigError if the model has no such layer."""
        num_layers = len(decoder_layers(model))
        if self.layer >= num_layers:
            raise ConfigError(f"{self}: the model has {num_layers} layers", hint=f"layers 0 to {num_layers - 1}")

    def __str__(self) -> str:
        return f"blocks.{self.layer}.hook_{self.kind}"


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
