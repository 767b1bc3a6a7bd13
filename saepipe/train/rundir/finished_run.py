"""Finished runs, trained or imported: what their files say, read without the classes of their components."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saepipe.data.cache.joint_hooks import hooks_of
from saepipe.data.config.yaml_file import read_yaml
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.health import Health
from saepipe.data.folders.inside import check_name
from saepipe.data.remote.places import folder_of, read_from
from saepipe.data.terminal.display import Displayed
from saepipe.train.rundir.import_config import ImportConfig
from saepipe.train.rundir.run_files import CONFIG, SAE, SAE_CONFIG
from saepipe.train.stored_config import StoredConfig, stored_identity

if TYPE_CHECKING:
    from saepipe.train.config import TrainConfig


@dataclass(frozen=True, repr=False)
class Run(Displayed):
    """A finished run, whose files are as its manifest lists them."""

    path: Path
    fingerprint: str  # of the artifact: SHA-256 of its manifest
    run_id: str  # hash of the cache and of the config without paths, logging and machine
    plain: Mapping[str, Any]  # config.yaml: one run, every value set
    cache_fingerprint: str
    hook: str  # or the joint name of a crosscoder's hooks
    variant: str
    seed: int  # 0 if unknown
    version: str | None = None  # of saepipe, which wrote `plain`
    stated: frozenset[str] | None = None  # dotted keys of `plain` without the defaults; None in an earlier version

    @cached_property
    def trained(self) -> StoredConfig | None:
        """Its settings, components as plain data; None for an imported run, whose training only its source knows."""
        return None if "imported" in self.plain else StoredConfig.parse(self.plain, source=str(self.path / CONFIG))

    @cached_property
    def imported(self) -> ImportConfig | None:
        """Where an imported run comes from; None for a trained run."""
        return ImportConfig.parse(self.plain, source=str(self.path / CONFIG)) if "imported" in self.plain else None

    @cached_property
    def config(self) -> TrainConfig | ImportConfig:
        """Its whole config, with the components as objects; imports torch and the run's plugins."""
        from saepipe.train.config import TrainConfig

        return self.imported or TrainConfig.load(self.path / CONFIG)

    @property
    def config_yaml(self) -> str:
        """Its whole config as text."""
        return (self.path / CONFIG).read_text(encoding="utf-8")

    @property
    def cache(self) -> Path:
        """Folder of its cache when it was made."""
        return folder_of(self.plain["cache"])

    @property
    def target(self) -> str | None:
        """Hook that it reconstructs if it is a transcoder; None for an SAE."""
        return self.plain.get("target")

    @property
    def sites(self) -> str:
        """Its hook, or a crosscoder's hooks; of a transcoder, the hook and the target."""
        return f"{self.hook} -> {self.target}" if self.target else self.hook

    def refuse_crosscoder(self, who: str) -> None:
        """Raises ConfigError if it is a crosscoder, of whose hooks `who` would need one."""
        if len(hooks_of(self.hook)) > 1:
            raise ConfigError(f"{self.path} is a crosscoder of {self.hook}; {who} has one hook")

    @property
    def data_seed(self) -> int | None:
        return self.trained.data_seed if self.trained else None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Its settings as plain data, under the keys of a train config as far as they apply."""
        if self.imported:
            source = f"{self.imported.imported}: {self.variant}"
            target = {"target": self.target} if self.target else {}
            own = {"sae": self.imported.sae, "hook": self.hook, "seed": self.imported.seed}
            return {"imported": source, **own, **target}
        if self.version == importlib.metadata.version("saepipe"):
            return stored_identity(self.plain)
        return self.config.identity()  # an earlier version did not have all of today's keys

    @property
    def sae_cfg(self) -> dict[str, Any]:
        """Its SAE's cfg.json."""
        cfg: dict[str, Any] = json.loads((self.path / SAE / SAE_CONFIG).read_text())
        return cfg

    def facts(self) -> Mapping[str, Any]:
        findings = Health.read(self.path).findings
        config = self.config
        if isinstance(config, ImportConfig):
            origin: dict[str, Any] = {"sae": config.sae, "imported from": config.imported}
        else:
            origin = {"sae": config.sae, "penalties": config.penalties, "steps": config.steps}
        return {
            "path": self.path,
            "fingerprint": self.fingerprint[:16],
            "variant": self.variant,
            "seed": self.seed,
            "hook": self.sites,
            **origin,
            "health": "\n".join(map(str, findings)) or ("ok" if self.trained else "not known"),
        }


def open_run(path: Path | str) -> Run:
    """Opens a finished run and verifies its files.

    Raises:
        CorruptDataError: if it is unfinished, is not a run, or its files have changed.
    """
    path = read_from(path)
    fingerprint, lines = artifact.open_committed(path, "run")
    header = _header(path, lines)
    for problem in artifact.damaged_files(path, lines):
        raise CorruptDataError(problem, hint="import it again" if "imported" in header else "train it again")
    return Run(
        path=path,
        fingerprint=fingerprint,
        run_id=header["run_id"],
        plain=read_yaml(path / CONFIG)[0],
        cache_fingerprint=header["cache"],
        hook=header["hook"],
        variant=header["variant"],
        seed=header["seed"],
        version=_version(header),
        stated=frozenset(header["stated"]) if "stated" in header else None,
    )


def _version(header: artifact.Line) -> str | None:
    by = header.get("provenance") or header.get("imported_by")
    return by.get("saepipe") if isinstance(by, dict) else None


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
