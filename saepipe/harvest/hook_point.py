"""Hook points, at which activations are taken, by TransformerLens' names; without torch, so that configs load at once.

`saepipe.harvest.sites` says which tensor each is in a family of models. `blocks.19.hook_resid_post` is the output of
decoder layer 19 and `blocks.20.hook_resid_pre` the input of layer 20: the same tensor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from saepipe.data.errors import ConfigError

Kind = Literal[
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_mlp_in",
    "hook_mlp_out",
    "hook_attn_out",
    "attn.hook_z",
]
"""Site within a decoder layer: before the layer, between attention and MLP, after the layer; what the MLP's first
matrix multiplies; what the MLP and the attention add to the residual stream; the attention heads' outputs, one after
the other, which the output projection multiplies.
"""

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, order=True)
class HookPoint:
    """A site of one decoder layer."""

    layer: int
    kind: Kind

    @classmethod
    def parse(cls, name: str) -> HookPoint:
        """Parses `blocks.L.SITE`, where SITE is one of KINDS; raises ConfigError for anything else."""
        match = re.fullmatch(r"blocks\.(0|[1-9][0-9]{0,5})\.(.+)", name)
        kind = next((kind for kind in KINDS if match and kind == match[2]), None)
        if match is None or kind is None:
            raise ConfigError(f"{name!r} is not a hook", hint=f"blocks.19. and one of {', '.join(KINDS)}")
        return cls(int(match[1]), kind)

    @property
    def is_between_layers(self) -> bool:
        """True for the residual stream before or after a layer."""
        return self.kind in ("hook_resid_pre", "hook_resid_post")

    @property
    def num_layers_below(self) -> int:
        """Number of decoder layers that have run before this point."""
        return self.layer + (self.kind == "hook_resid_post")

    def check_in(self, num_layers: int) -> None:
        """Raises ConfigError if a model of so many layers has no such layer."""
        if self.layer >= num_layers:
            raise ConfigError(f"{self}: the model has {num_layers} layers", hint=f"layers 0 to {num_layers - 1}")

    def __str__(self) -> str:
        return f"blocks.{self.layer}.{self.kind}"
