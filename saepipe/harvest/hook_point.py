"""Hook points, at which activations are taken, by TransformerLens' names; without torch, so that configs load at once.

`blocks.19.hook_resid_post` is the output of decoder layer 19, Hugging Face's `hidden_states[20]`;
`blocks.19.hook_resid_pre` is that layer's input.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from saepipe.data.errors import ConfigError


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

    def check_in(self, num_layers: int) -> None:
        """Raises ConfigError if a model of so many layers has no such layer."""
        if self.layer >= num_layers:
            raise ConfigError(f"{self}: the model has {num_layers} layers", hint=f"layers 0 to {num_layers - 1}")

    def __str__(self) -> str:
        return f"blocks.{self.layer}.hook_{self.kind}"
