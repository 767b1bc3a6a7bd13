"""A damaged cache, opened again for writing: what is damaged goes, and a harvest makes exactly that again.

All of a cache but its description is a function of its config and the dataset's commit, pool by pool. So repairing is
forgetting: the pools with a damaged file are taken off the manifest, and the same harvest as before fills the gaps and
seals the cache, on a CPU with the same bytes and the same fingerprint. Contexts, statistics and the arrays' zarr.json
cost no forward pass; they are written anew anyway.

What cannot be made again: zarr.json of the group, which holds the config, and the manifest, by which all else is known.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.artifact import Line

GROUP = "zarr.json"
CONFIG = f"{artifact.LOG}/config.yaml"

Pool = tuple[str, int]
"""Split and number."""


def repair(path: Path) -> dict[str, Any]:
    """Takes what is damaged out of a cache, finished or half-made; an undamaged one is left as it is.

    Reads every file. Until the harvest is through, the cache is unfinished: it has no COMMITTED.

    Returns:
        damaged: a sentence a file; pools: split, number and rows of each that must be made again; tokens: their rows,
        which go through the model; fingerprint: the cache's, which the harvest will give again, None of a half-made
        one; config: the cache's own, written for the harvest, and next: what to run, both None if all is well.

    Raises:
        ConfigError: if there is no cache.
        CorruptDataError: if its description or its manifest is damaged. Nothing is changed then.
        LockedError: if another process is writing it.
    """
    if not (path / GROUP).is_file() and not (path / artifact.MANIFEST).is_file():
        raise ConfigError(f"{path} holds no cache", hint="check the path")
    with artifact.writer_lock(path):
        fingerprint, lines = _listed(path)
        damage = {name: problem for line in lines for name, problem in _damage(path, line)}
        config = _config(path, damage)
        dropped = _pools_of(lines, damage)
        if unfinished := bool(damage) or fingerprint is None:
            artifact.write_file(path / CONFIG, yaml.safe_dump(config, sort_keys=False).encode())
        if damage:
            dropped |= _short(lines, dropped, config)
            _forget(path, lines, damage, dropped)
        pools = [line for line in lines if line["kind"] == "pool" and _pool(line) in dropped]
        return {
            "cache": str(path),
            "fingerprint": fingerprint,
            "damaged": list(damage.values()),
            "pools": [{"split": line["split"], "pool": line["pool"], "rows": line["num_rows"]} for line in pools],
            "tokens": sum(line["num_rows"] for line in pools),
            "config": str(path / CONFIG) if unfinished else None,
            "next": f"saepipe harvest --config {path / CONFIG} --out {path}" if unfinished else None,
        }


def _listed(path: Path) -> tuple[str | None, list[Line]]:
    """Fingerprint and manifest, checked against its seal if there is one."""
    try:
        if artifact.is_committed(path):
            return artifact.open_committed(path, "cache")
        return None, artifact.read_manifest(path)
    except CorruptDataError as error:
        raise CorruptDataError(
            f"{error.message}: this cannot be repaired",
            hint="the manifest says what all else should be; without it, harvest again into another folder",
        ) from None


def _damage(path: Path, line: Line) -> Iterable[tuple[str, str]]:
    """Each damaged file of a manifest line, and a sentence about it."""
    for name, expected in line["files"].items():
        for problem in artifact.damaged_files(path, [{"files": {name: expected}}]):
            yield name, problem


def _config(path: Path, damage: Mapping[str, str]) -> dict[str, Any]:
    """The config that the cache was made with."""
    problem = damage.get(GROUP)
    try:
        config: dict[str, Any] = json.loads((path / GROUP).read_text())["attributes"]["saepipe"]["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = problem or f"{path / GROUP} is no description of a cache ({error!r})"
    if problem:
        raise CorruptDataError(
            f"{problem}: it says how the cache was made, and cannot be repaired",
            hint="put back a copy of it, or harvest again into another folder",
        )
    return config


def _pool(line: Line) -> Pool:
    return line["split"], line["pool"]


def _pools_of(lines: Iterable[Line], damage: Mapping[str, str]) -> set[Pool]:
    return {_pool(line) for line in lines if line["kind"] == "shard" and damage.keys() & line["files"].keys()}


def _short(lines: Iterable[Line], dropped: set[Pool], config: Mapping[str, Any]) -> set[Pool]:
    """Last pools that are not full: a harvest makes them again where the training rows do not reach `num_tokens`."""
    full = {"train": config["pool_shards"] * config["shard_rows"], "heldout": config["shard_rows"]}
    kept = [line for line in lines if line["kind"] == "pool" and _pool(line) not in dropped]
    reached = [line["pool"] * full["train"] + line["num_rows"] for line in kept if line["split"] == "train"]
    if max(reached, default=0) == config["num_tokens"]:
        return set()
    return {_pool(line) for line in kept if line["num_rows"] < full[line["split"]]}


def _forget(path: Path, lines: Iterable[Line], damage: Iterable[str], dropped: set[Pool]) -> None:
    """Deletes the damaged files, then takes the seal off, then the pools off the manifest.

    In this order a harvest after a crash in between finds pools without their files, which it makes again, or a sealed
    cache, which it refuses for the missing files; it never seals what is damaged.
    """
    for name in damage:
        (path / name).unlink(missing_ok=True)
    for folder in {(path / name).parent for name in damage}:
        if folder.is_dir():
            artifact.sync_folder(folder)
    kept = [line for line in lines if line["kind"] in ("shard", "pool") and _pool(line) not in dropped]
    artifact.rewrite_manifest(path, kept)
