"""A finished run opened, trained or imported, and its SAE as a module for notebooks and evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.health import Health
from saepipe.data.terminal.display import Displayed, html_table
from saepipe.train.config import TrainConfig
from saepipe.train.formats import saelens
from saepipe.train.rundir.importing import ImportConfig
from saepipe.train.sae.base import Architecture, Params


@dataclass(frozen=True, repr=False)
class Run(Displayed):
    """A finished run; its files are those its manifest lists."""

    path: Path
    fingerprint: str  # of the artifact: SHA-256 of its manifest
    run_id: str  # of what was asked for: the config less paths, logging and machine, and the cache
    config: TrainConfig | ImportConfig  # resolved: one run, nothing left open
    cache_fingerprint: str
    hook: str
    variant: str
    seed: int  # 0 where it is not known

    @property
    def trained(self) -> TrainConfig | None:
        """How it was trained; None of an imported run, of whose training we only know what its source says."""
        return self.config if isinstance(self.config, TrainConfig) else None

    @property
    def data_seed(self) -> int | None:
        return self.trained.data_seed if self.trained else None

    @property
    def settings(self) -> dict[str, Any]:
        """What it is, as plain data, in the keys of a train config as far as they apply."""
        if isinstance(self.config, TrainConfig):
            return self.config.identity()
        source = f"{self.config.imported}: {self.variant}"
        return {"imported": source, "sae": self.config.sae, "hook": self.hook, "seed": self.config.seed}

    def facts(self) -> Mapping[str, Any]:
        findings = Health.read(self.path).findings
        if isinstance(self.config, TrainConfig):
            made: dict[str, Any] = {
                "sae": self.config.sae,
                "penalties": self.config.penalties,
                "steps": self.config.steps,
            }
        else:
            made = {"sae": self.config.sae, "imported from": self.config.imported}
        return {
            "path": self.path,
            "fingerprint": self.fingerprint[:16],
            "variant": self.variant,
            "seed": self.seed,
            "hook": self.hook,
            **made,
            "health": "\n".join(map(str, findings)) or ("ok" if self.trained else "not known"),
        }


class SAE(nn.Module):
    """A sparse autoencoder on raw activations, in float32.

    W_enc (d_in, d_sae), b_enc (d_sae,), W_dec (d_sae, d_in), b_dec (d_in,), and what else the architecture has:
    threshold (d_sae,) of a jumprelu; r_mag and b_mag (d_sae,) of a gated.
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

    @property
    def architecture(self) -> str:
        return self.settings.name

    @property
    def hook(self) -> str | None:
        """`blocks.19.hook_resid_post`; None where a folder from elsewhere does not say."""
        return self.metadata.get("hook_name")

    @property
    def d_in(self) -> int:
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        return self.W_dec.shape[0]

    def encode(self, x: Tensor, latents: Tensor | None = None) -> Tensor:
        """Raw activations (..., d_in) of any float dtype -> acts (..., d_sae) float32.

        Given the indices of some latents, acts (..., num_latents) of those alone.
        """
        if latents is None:
            return self.settings.encode(self._params(), x.float())
        return self.settings.encode_some(self._params(), x.float(), latents)

    def decode(self, acts: Tensor) -> Tensor:
        """acts (..., d_sae) -> x_hat (..., d_in), in raw units."""
        return self.settings.decode(self._params(), acts)

    def forward(self, x: Tensor) -> Tensor:
        """decode(encode(x))."""
        return self.decode(self.encode(x))

    def extra_repr(self) -> str:
        settings = ", ".join(f"{key}={value}" for key, value in self.settings.to_dict().items())
        return f"{settings}, d_in={self.d_in}, hook={self.hook}"

    def _repr_html_(self) -> str:
        settings = {**self.settings.to_dict(), "d_in": self.d_in, "hook": self.hook}
        shapes = {name: tuple(value.shape) for name, value in self.named_parameters()}
        return f"<b>SAE</b>{html_table((), (settings | shapes).items())}"

    def _params(self) -> Params:
        return dict(self.named_parameters())


def open_run(path: Path | str) -> Run:
    """A finished run.

    Raises:
        CorruptDataError: if it is not finished, is something else, or its files were changed since.
    """
    path = Path(path)
    fingerprint, lines = artifact.open_committed(path, "run")
    header = lines[0]
    if header.get("kind") != "run":
        raise CorruptDataError(f"{path} is a {header.get('kind', 'thing of no kind')}, not a run")
    kind = ImportConfig if "imported" in header else TrainConfig
    for problem in artifact.damaged_files(path, lines):
        raise CorruptDataError(problem, hint="train it again" if kind is TrainConfig else "import it again")
    return Run(
        path=path,
        fingerprint=fingerprint,
        run_id=header["run_id"],
        config=kind.load(path / "config.yaml"),
        cache_fingerprint=header["cache"],
        hook=header["hook"],
        variant=header["variant"],
        seed=header["seed"],
    )


def load(run: Run | Path | str, device: str | torch.device = "cpu") -> SAE:
    """The SAE of a run, or in a bare SAELens folder.

    Raises:
        CorruptDataError: if the run is not finished or damaged.
        ConfigError: if the folder holds no SAE.
    """
    if not isinstance(run, Run) and (Path(run) / artifact.MANIFEST).exists():
        run = open_run(run)
    folder = run.path / "sae" if isinstance(run, Run) else Path(run)
    return SAE(*saelens.read(folder)).to(device)
