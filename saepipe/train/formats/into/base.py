"""A run's SAE on its way out, and what all writers need to know of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from saepipe.data.errors import ConfigError
from saepipe.train.sae.base import Architecture, Params


@dataclass(frozen=True)
class Outgoing:
    """An SAE of ours, and what another library's folder shall say of it; None where we do not know."""

    sae: Architecture
    """as it is saved: a batch_topk is a jumprelu by now"""
    params: Params
    """float32, on raw activations, in the convention of `saepipe.train.sae.base`"""
    trained: Architecture | None
    """as it was trained; None of an imported one"""
    hook: str
    model: str
    dataset: str | None
    context_size: int
    seed: int | None
    lr: float | None
    steps: int | None
    metadata: Mapping[str, Any]
    """what stands beside the weights in the run"""
    density: Tensor | None
    """(d_sae,) float64, the share of held-out tokens on which each latent is active; None if it was not evaluated"""
    l0: float | None
    """active latents a token, from the same evaluation"""
    origin: Mapping[str, Any]
    """run and cache that it comes from, as plain data"""

    @property
    def d_in(self) -> int:
        return self.params["W_dec"].shape[1]

    @property
    def d_sae(self) -> int:
        return self.params["W_dec"].shape[0]

    def layer_before(self, library: str) -> int:
        """The decoder layer whose output it reads: L of `blocks.L.hook_resid_post` and `blocks.<L+1>.hook_resid_pre`.

        Raises:
            ConfigError: if there is none, and `library` has no other name for a place in the model.
        """
        match = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|post)", self.hook)
        layer = int(match[1]) - (match[2] == "pre") if match else -1
        if layer < 0:
            raise ConfigError(
                f"{library} says where an SAE applies by the layer whose output it reads; {self.hook} is none's",
                hint="--to saelens, which names the hook",
            )
        return layer
