"""Where in the model an activation is taken; the only file that knows what Hugging Face calls it.

`blocks.19.hook_resid_post` (TransformerLens' name) is the output of decoder layer 19, which Hugging Face lists as
`hidden_states[20]`; `blocks.19.hook_resid_pre` is that layer's input.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from saepipe.data.errors import ConfigError, MachineError

_LAYER_LISTS = ("layers", "h", "decoder.layers", "language_model.layers")


@dataclass(frozen=True, order=True)
class HookPoint:
    """A point of the residual stream: before (`resid_pre`) or after (`resid_post`) a decoder layer."""

    layer: int
    kind: Literal["resid_pre", "resid_post"]

    @classmethod
    def parse(cls, name: str) -> HookPoint:
        """Reads `blocks.L.hook_resid_pre` or `blocks.L.hook_resid_post`; raises ConfigError for anything else."""
        match = re.fullmatch(r"blocks\.(\d+)\.hook_(resid_pre|resid_post)", name)
        if match is None:
            raise ConfigError(f"{name!r} is no residual-stream hook", hint="for example blocks.19.hook_resid_post")
        return cls(int(match[1]), "resid_pre" if match[2] == "resid_pre" else "resid_post")

    @property
    def num_layers_below(self) -> int:
        """How many decoder layers have run before this point."""
        return self.layer + (self.kind == "resid_post")

    def check_in(self, model: PreTrainedModel) -> None:
        """Raises ConfigError if the model has no such layer."""
        num_layers = len(decoder_layers(model))
        if self.layer >= num_layers:
            raise ConfigError(f"{self}: the model has {num_layers} layers", hint=f"0 to {num_layers - 1}")

    def __str__(self) -> str:
        return f"blocks.{self.layer}.hook_{self.kind}"


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The model's decoder layers in order; raises MachineError for an architecture we do not know."""
    body = model.base_model
    for path in _LAYER_LISTS:
        try:
            layers = body.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(layers, nn.ModuleList):
            return layers
    known = ", ".join(_LAYER_LISTS)
    raise MachineError(f"{type(model).__name__} keeps its decoder layers in none of: {known}", hint="add its name")


def layer_output(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """The residual stream in what a decoder layer returns: a tensor, or a tuple that begins with it."""
    return output if isinstance(output, torch.Tensor) else output[0]
