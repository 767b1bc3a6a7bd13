"""Finished runs, trained or imported, and their SAEs as modules for notebooks and evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.health import Health
from saepipe.data.folders.inside import check_name
from saepipe.data.terminal.display import Displayed, html_table
from saepipe.train.config import TrainConfig
from saepipe.train.formats import saelens
from saepipe.train.rundir.importing import ImportConfig
from saepipe.train.sae.base import Architecture, Params


@dataclass(frozen=True, repr=False)
class Run(Displayed):
    """A finished run, whose files are as its manifest lists them."""

    path: Path
    fingerprint: str  # of the artifact: SHA-256 of its manifest
    run_id: str  # hash of the cache and of the config without paths, logging and machine
    config: TrainConfig | ImportConfig  # resolved: one run, every value set
    cache_fingerprint: str
    hook: str
    variant: str
    seed: int  # 0 if unknown

    @property
    def trained(self) -> TrainConfig | None:
        """Its train config; None for an imported run, whose training is known only from its source."""
        return self.config if isinstance(self.config, TrainConfig) else None

    @property
    def data_seed(self) -> int | None:
        return self.trained.data_seed if self.trained else None

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings as plain data, under the keys of a train config as far as they apply."""
        if isinstance(self.config, TrainConfig):
            return self.config.identity()
        source = f"{self.config.imported}: {self.variant}"
        return {"imported": source, "sae": self.config.sae, "hook": self.hook, "seed": self.config.seed}

    def facts(self) -> Mapping[str, Any]:
        findings = Health.read(self.path).findings
        if isinstance(self.config, TrainConfig):
            origin: dict[str, Any] = {
                "sae": self.config.sae,
                "penalties": self.config.penalties,
                "steps": self.config.steps,
            }
        else:
            origin = {"sae": self.config.sae, "imported from": self.config.imported}
        return {
            "path": self.path,
            "fingerprint": self.fingerprint[:16],
            "variant": self.variant,
            "seed": self.seed,
            "hook": self.hook,
            **origin,
            "health": "\n".join(map(str, findings)) or ("ok" if self.trained else "not known"),
        }


class SAE(nn.Module):
    """A sparse autoencoder on raw activations, in float32.

    Parameters: W_enc (d_in, d_sae), b_enc (d_sae,), W_dec (d_sae, d_in), b_dec (d_in,), and those of the architecture:
    threshold (d_sae,) for jumprelu; r_mag and b_mag (d_sae,) for gated.
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
        """`blocks.19.hook_resid_post`; None if a folder from elsewhere does not say."""
        return self.metadata.get("hook_name")

    @property
    def d_in(self) -> int:
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
        """Decodes acts (..., d_sae): x_hat (..., d_in) in raw units."""
        return self.settings.decode(self._params(), acts)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructs x: decode(encode(x))."""
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
    """Opens a finished run and verifies its files.

    Raises:
        CorruptDataError: if it is unfinished, is not a run, or its files have changed.
    """
    path = Path(path)
    fingerprint, lines = artifact.open_committed(path, "run")
    header = _header(path, lines)
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


def _header(path: Path, lines: Sequence[artifact.Line]) -> artifact.Line:
    """Returns the first line of a run's manifest; the variant's name and the seed become parts of paths later."""
    header = lines[0] if lines else {}
    if header.get("kind") != "run":
        raise CorruptDataError(f"{path} is of kind {header.get('kind')!r}, not a run")
    types = {"run_id": str, "cache": str, "hook": str, "variant": str, "seed": int}
    if wrong := [key for key, kind in types.items() if not isinstance(header.get(key), kind)]:
        raise CorruptDataError(f"{path / artifact.MANIFEST}: the run's {wrong[0]} is {header.get(wrong[0])!r}")
    check_name(path, header["variant"])
    if "/" in header["variant"]:
        raise CorruptDataError(f"{path / artifact.MANIFEST}: the run's variant {header['variant']!r} is not one name")
    return header


def load(run: Run | Path | str, device: str | torch.device = "cpu") -> SAE:
    """Loads the SAE of a run, or of a plain SAELens folder.

    Raises:
        CorruptDataError: if the run is unfinished or damaged.
        ConfigError: if the folder holds no SAE.
    """
    if not isinstance(run, Run) and (Path(run) / artifact.MANIFEST).exists():
        run = open_run(run)
    folder = run.path / "sae" if isinstance(run, Run) else Path(run)
    return SAE(*saelens.read(folder)).to(device)
