"""A run's SAE to export, with everything that the writers need."""

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
    """One of our SAEs, and what another library's folder should say about it; None if unknown."""

    sae: Architecture
    """as saved: a batch_topk has become a jumprelu"""
    params: Params
    """float32, on raw activations, in the convention of `saepipe.train.sae.base`"""
    trained: Architecture | None
    """as trained; None for an imported SAE"""
    hook: str
    target: str | None
    """hook that a transcoder reconstructs; None for an SAE"""
    model: str
    dataset: str | None
    context_size: int
    seed: int | None
    lr: float | None
    steps: int | None
    metadata: Mapping[str, Any]
    """stored with the weights in the run"""
    density: Tensor | None
    """(d_sae,) float64, the share of held-out tokens on which each latent is active; None if not evaluated"""
    l0: float | None
    """active latents per token, from the same evaluation"""
    origin: Mapping[str, Any]
    """run and cache of the SAE, as plain data"""

    @property
    def d_in(self) -> int:
        return len(self.params["W_enc"])

    @property
    def d_out(self) -> int:
        return len(self.params["b_dec"])

    def refuse_transcoder(self, library: str) -> None:
        """Raises ConfigError if this is a transcoder, which `library` does not have."""
        if self.target is not None:
            raise ConfigError(
                f"an export to {library} holds SAEs, and this is a transcoder from {self.hook} to {self.target}",
                hint="use --to saelens or circuit-tracer",
            )

    @property
    def d_sae(self) -> int:
        return self.params["W_dec"].shape[0]

    def layer_before(self, library: str) -> int:
        """Returns the decoder layer whose output the SAE reads: L for hooks L.hook_resid_post and <L+1>.hook_resid_pre.

        Raises:
            ConfigError: if there is none, since `library` has no other way to name a hook.
        """
        match = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|post)", self.hook)
        layer = int(match[1]) - (match[2] == "pre") if match else -1
        if layer < 0:
            raise ConfigError(
                f"{library} places an SAE by the layer whose output it reads; {self.hook} is not a layer's output",
                hint="use --to saelens, which names the hook",
            )
        return layer
