"""SAEs of runs, and of plain SAELens folders, as modules for notebooks and evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from saepipe.data.cache.joint_hooks import hooks_of
from saepipe.data.errors import ConfigError
from saepipe.data.folders import artifact
from saepipe.data.terminal.display import html_table
from saepipe.train.formats import saelens
from saepipe.train.rundir.finished_run import Run, open_run
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.crosscoder import view_params
from saepipe.train.sae.sparse_acts import SparseActs, encode_sparse
from saepipe.train.sae.transcoder import is_transcoder, skipped


class SAE(nn.Module):
    """A sparse autoencoder, or a transcoder, on raw activations, in float32.

    Parameters: W_enc (d_in, d_sae), b_enc (d_sae,), W_dec (d_sae, d_in), b_dec (d_in,), and those of the architecture:
    threshold (d_sae,) for jumprelu; r_mag and b_mag (d_sae,) for gated. A transcoder reconstructs another hook's
    activations y, (..., d_out), from x: its W_dec is (d_sae, d_out), b_dec (d_out,), and b_in (d_in,) and perhaps
    W_skip (d_in, d_out) are there too.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor

    def __init__(self, settings: Architecture, params: Params, metadata: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        self.metadata = metadata
        for name, value in params.items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))

    @classmethod
    def open(cls, run: Run | Path | str, device: str | torch.device = "cpu") -> Self:
        """Opens the SAE of a run, or of a plain SAELens folder; raises as `load`."""
        if not isinstance(run, Run) and (Path(run) / artifact.MANIFEST).exists():
            run = open_run(run)
        folder = run.path / "sae" if isinstance(run, Run) else Path(run)
        return cls(*saelens.read(folder)).to(device)

    @property
    def architecture(self) -> str:
        return self.settings.name

    @property
    def device(self) -> torch.device:
        """Device of the parameters, where `encode` and `decode` take their inputs."""
        return self.W_dec.device

    @property
    def cfg(self) -> dict[str, Any]:
        """Settings as plain data: architecture and its own settings, d_in, hook, and the metadata of the folder."""
        settings = self.settings.to_dict()
        return {
            "architecture": settings.pop("name"),
            "d_in": self.d_in,
            **settings,
            "hook": self.hook,
            **({"d_out": self.d_out, "target": self.target} if self.is_transcoder else {}),
            "metadata": dict(self.metadata),
        }

    @property
    def hook(self) -> str | None:
        """`blocks.19.hook_resid_post`; None if a folder from elsewhere does not say."""
        return self.metadata.get("hook_name")

    @property
    def target(self) -> str | None:
        """Hook that a transcoder reconstructs; None for an SAE, or if a folder from elsewhere does not say."""
        return self.metadata.get("hook_name_out") if self.is_transcoder else None

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of a crosscoder's hooks, whose activations are side by side in x; () otherwise."""
        return tuple(self.metadata.get("widths", ()))

    @property
    def scales(self) -> tuple[float, ...]:
        """Factors by which a crosscoder's training scaled each hook; () otherwise."""
        return tuple(self.metadata["saepipe"]["activation_scale"]) if self.widths else ()

    def at_hook(self, hook: str) -> Self:
        """Returns a crosscoder as the transcoder that reads all its hooks and reconstructs one of them.

        Raises:
            ConfigError: if it does not have that hook, or is no crosscoder.
        """
        hooks = hooks_of(str(self.hook))
        if not self.widths or hook not in hooks:
            kind = f"a crosscoder of {self.hook}" if self.widths else f"no crosscoder, but reads {self.hook}"
            raise ConfigError(f"this is {kind}: it has no view of {hook}", hint="name a hook of a crosscoder")
        params = view_params(self._params(), self.widths, hooks.index(hook))
        metadata = {key: value for key, value in self.metadata.items() if key != "widths"}
        return type(self)(self.settings, params, {**metadata, "hook_name_out": hook})

    @property
    def is_transcoder(self) -> bool:
        return is_transcoder(self._params())

    @property
    def d_in(self) -> int:
        return self.W_enc.shape[0]

    @property
    def d_out(self) -> int:
        """Width of what is reconstructed: d_in, but in a transcoder."""
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        return self.W_dec.shape[0]

    def encode(self, x: Tensor, latents: Tensor | None = None) -> Tensor:
        """Encodes raw activations (..., d_in) of any float dtype: acts (..., d_sae) float32.

        With the indices of some latents, returns only their acts, (..., num_latents).
        """
        if latents is None:
            return self.settings.encode(self._params(), x.float())
        return self.settings.encode_some(self._params(), x.float(), latents)

    def decode(self, acts: Tensor) -> Tensor:
        """Decodes acts (..., d_sae): x_hat (..., d_out) in raw units, without a transcoder's `skip`."""
        return self.settings.decode(self._params(), acts)

    def skip(self, x: Tensor) -> Tensor | None:
        """Computes what a skip adds to the decoded latents, (..., d_in) -> (..., d_out); None without a skip."""
        return skipped(self._params(), x.float())

    def encode_sparse(self, x: Tensor) -> SparseActs:
        """Encodes raw activations (num_tokens, d_in) of any float dtype: only the acts that are not 0, no gradient."""
        return encode_sparse(self.settings, self._params(), x.float())

    def decode_sparse(self, acts: SparseActs) -> Tensor:
        """Decodes entries of (num_tokens, d_sae): x_hat (num_tokens, d_out) in raw units, without `skip`."""
        return acts.decode(self.settings, self._params())

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructs x, or a transcoder's target from x: decode(encode(x)), and the skip if there is one.

        On a CPU by the entries alone where no gradient is asked for.
        """
        differentiated = torch.is_grad_enabled() and any(value.requires_grad for value in (x, *self.parameters()))
        if differentiated or x.device.type != "cpu":
            x_hat = self.decode(self.encode(x))
        else:
            x_hat = self.decode_sparse(self.encode_sparse(x.reshape(-1, self.d_in))).view(*x.shape[:-1], self.d_out)
        skip = self.skip(x)
        return x_hat if skip is None else x_hat + skip

    def extra_repr(self) -> str:
        settings = ", ".join(f"{key}={value}" for key, value in self.settings.to_dict().items())
        return f"{settings}, d_in={self.d_in}, hook={self.hook}"

    def _repr_html_(self) -> str:
        settings = {**self.settings.to_dict(), "d_in": self.d_in, "hook": self.hook}
        shapes = {name: tuple(value.shape) for name, value in self.named_parameters()}
        return f"<b>SAE</b>{html_table((), (settings | shapes).items())}"

    def _params(self) -> Params:
        return dict(self.named_parameters())


def load(run: Run | Path | str, device: str | torch.device = "cpu") -> SAE:
    """Loads the SAE of a run, or of a plain SAELens folder.

    Raises:
        CorruptDataError: if the run is unfinished or damaged.
        ConfigError: if the folder holds no SAE.
    """
    return SAE.open(run, device)
