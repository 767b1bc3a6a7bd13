"""Subject of an evaluation: one finished run and its SAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from saepipe.evaluate.sae.reconstruction import Autoencoder, encode_sparse
from saepipe.train.rundir.finished_run import Run
from saepipe.train.rundir.load import load
from saepipe.train.sae.sparse_acts import SparseActs


@dataclass(frozen=True)
class Subject:
    """A run with its SAE loaded, in float32 on the device of the evaluation."""

    run: Run
    sae: Autoencoder
    cfg: dict[str, Any]
    """The SAE's cfg.json."""

    @classmethod
    def load(cls, run: Run, device: torch.device) -> Subject:
        return cls(run, load(run, device=str(device)), run.sae_cfg)

    def encode(self, x: torch.Tensor, latents: torch.Tensor | None = None) -> torch.Tensor:
        """(num_tokens, d_in) of any dtype and device -> acts (num_tokens, d_sae) float32, on the SAE's device.

        Given the indices of some latents, returns their acts (num_tokens, num_latents); the other latents are not
        computed if the architecture allows it (TopK does not).
        """
        return self.sae.encode(x.to(self.sae.W_enc.device, torch.float32), latents)

    def encode_sparse(self, x: torch.Tensor) -> SparseActs:
        """(num_tokens, d_in) of any dtype and device -> the acts that are not 0, on the SAE's device.

        Tokens are encoded a block at a time, but the entries of all are held at once.
        """
        return encode_sparse(self.sae, x.to(self.sae.W_enc.device, torch.float32))

    @property
    def name(self) -> str:
        return f"{self.run.variant}/seed-{self.run.seed}"
