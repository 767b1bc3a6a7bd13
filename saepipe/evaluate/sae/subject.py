"""Subject of an evaluation: one finished run and its SAE."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.sae.reconstruction import Autoencoder, encode_sparse, skip_of
from saepipe.train.rundir.finished_run import Run
from saepipe.train.rundir.load import SAE, load
from saepipe.train.sae.sparse_acts import SparseActs
from saepipe.train.sae.transcoder import split_rows


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
        """Rows of any dtype and device -> acts (num_tokens, d_sae) float32, on the SAE's device.

        Rows are x (num_tokens, d_in); a transcoder's may have its target beside x, (num_tokens, d_in + d_out).

        Given the indices of some latents, returns their acts (num_tokens, num_latents); the other latents are not
        computed if the architecture allows it (TopK does not).
        """
        return self.sae.encode(self._read(x), latents)

    def encode_sparse(self, x: torch.Tensor) -> SparseActs:
        """Rows as for `encode` -> the acts that are not 0, on the SAE's device.

        Tokens are encoded a block at a time, but the entries of all are held at once.
        """
        return encode_sparse(self.sae, self._read(x))

    def encode_finite(self, x: torch.Tensor) -> SparseActs:
        """Encodes held-out rows as `encode_sparse` does; raises CorruptDataError if an activation is NaN or Inf."""
        acts = self.encode_sparse(x)
        if not acts.values.sum().isfinite():
            raise CorruptDataError(f"the SAE of {self.name} on held-out tokens: acts hold NaN or Inf")
        return acts

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of a crosscoder's hooks; () otherwise."""
        return self.sae.widths if isinstance(self.sae, SAE) else ()

    @property
    def scales(self) -> tuple[float, ...]:
        """Factors by which a crosscoder's training scaled each hook; () otherwise."""
        return self.sae.scales if isinstance(self.sae, SAE) else ()

    def at_hook(self, hook: str) -> Subject:
        """Returns a crosscoder as the transcoder that reconstructs one of its hooks."""
        assert isinstance(self.sae, SAE)
        return replace(self, sae=self.sae.at_hook(hook))

    @property
    def has_skip(self) -> bool:
        return hasattr(self.sae, "W_skip")

    def without_latents(self, x: torch.Tensor) -> torch.Tensor:
        """Returns what is reconstructed of rows as for `encode` with every latent silent, (num_tokens, d_out) float32.

        That is b_dec, and a skip transcoder's skip.
        """
        no_acts = torch.zeros(1, self.sae.d_sae, device=self.sae.W_dec.device)
        base = self.sae.decode(no_acts)
        skip = skip_of(self.sae, self._read(x))
        return base.expand(len(x), -1) if skip is None else base + skip

    def _read(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns the part of rows that the encoder reads, float32 on the SAE's device."""
        x, _ = split_rows(rows, len(self.sae.W_enc))
        return x.to(self.sae.W_enc.device, torch.float32)

    @property
    def name(self) -> str:
        return f"{self.run.variant}/seed-{self.run.seed}"
