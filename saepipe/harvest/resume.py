"""Checks whether a harvest may write to a folder: a new one, one to resume or to extend, or one that is finished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saepipe.data.cache.repair import GROUP
from saepipe.data.cache.zarr_json import group_attributes
from saepipe.data.config.base import differences
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.resume_mode import ResumeMode
from saepipe.data.terminal.progress import Progress
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.identity import compare


@dataclass(frozen=True)
class FolderState:
    """State of the output folder: the cache's attributes (empty if there is no cache), and whether it is finished."""

    settings: HarvestConfig
    """the present config, with the cache's own settings where it says `auto`"""
    attributes: Mapping[str, Any]
    done: bool = False
    config: Mapping[str, Any] | None = None
    """the cache's config as it is stored, if the present one is equal: an earlier version wrote fewer keys"""


def inspect_folder(out: Path, config: HarvestConfig, resume: ResumeMode) -> FolderState:
    """Compares the folder with the config.

    Raises:
        ConfigError: if the folder holds something else, or a cache made with another config, or if `resume` forbids
            what would be needed.
        CorruptDataError: if the cache's description is damaged.
    """
    if not out.exists() or all(path.name == artifact.LOG or path.suffix == ".partial" for path in out.iterdir()):
        if resume == "must":
            raise ConfigError(f"there is nothing to resume at {out}", hint="--resume auto")
        return FolderState(config, {})
    attributes = _read_attributes(out)
    if resume == "never":
        raise ConfigError(f"{out} holds a cache already", hint="choose another --out, or --resume auto")
    old_config = HarvestConfig.parse(attributes["config"], source=f"{out}/zarr.json")
    config = config.adopting(old_config)
    if changed := differences(old_config.identity(), config.identity()):
        raise ConfigError(
            f"{out} was started with another config:\n  " + "\n  ".join(changed), hint="use another --out"
        )
    for key in ("num_tokens", "heldout_tokens"):
        if getattr(config, key) < getattr(old_config, key):
            raise ConfigError(
                f"{out} has {key} = {getattr(old_config, key):,}, but the config has only {getattr(config, key):,}",
                hint="a cache can be extended, not shortened; choose another --out",
            )
    same_length = (config.num_tokens, config.heldout_tokens) == (old_config.num_tokens, old_config.heldout_tokens)
    done = same_length and artifact.is_committed(out)
    return FolderState(config, attributes, done, attributes["config"] if config == old_config else None)


def _read_attributes(out: Path) -> Mapping[str, Any]:
    """Returns the attributes of the cache in a folder, compared with its seal if there is one."""
    try:
        if artifact.is_committed(out):
            _, lines = artifact.open_committed(out, "cache")
            sealed = [{"files": {GROUP: line["files"][GROUP]}} for line in lines if GROUP in line["files"]]
            for problem in artifact.damaged_files(out, sealed):
                raise CorruptDataError(problem, hint="restore a copy of it, or harvest into another folder")
        return group_attributes(out)
    except CorruptDataError:
        if not (out / artifact.MANIFEST).is_file():
            raise ConfigError(f"{out} is not empty, and is not a cache", hint="choose another --out") from None
        raise


def check_same_model(attributes: Mapping[str, Any], identity: Mapping[str, Any], out: Path, progress: Progress) -> None:
    """Raises ConfigError if the cache was begun with a model or a tokenizer that does something else.

    The commit may differ, as long as it changed neither. A difference that only another version of a package makes is
    said.
    """
    versions = attributes.get("versions", {}), artifact.provenance()
    comparison = compare(attributes["model"], identity, versions, leave_out=("revision",))
    if comparison.changed:
        lines = "\n  ".join(comparison.changed)
        raise ConfigError(f"{out} was started with another model:\n  {lines}", hint="use another --out")
    for sentence in comparison.accepted:
        progress.say(f"{out}: {sentence}")
