"""Repair of a damaged cache: damaged files are deleted, and the same harvest as before makes exactly those again.

Each pool of a cache is a function of the config and the dataset's commit. So repairing means removing the pools with a
damaged file from the manifest: the same harvest then fills the gaps and seals the cache, on a CPU with the same bytes
and the same fingerprint. Contexts, statistics and the arrays' zarr.json need no forward pass, and every harvest
rewrites them.

Two files cannot be made again: the group's zarr.json, which holds the config, and the manifest, against which all
other files are checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from saepipe.data.bucket_address import cache_folder, mirrored
from saepipe.data.cache import rank_manifests
from saepipe.data.cache.ancestors import damaged_ancestors, relink
from saepipe.data.cache.manifest_lines import check_lines
from saepipe.data.cache.text_lines import text_lines
from saepipe.data.cache.zarr_json import group_attributes
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.artifact import Line
from saepipe.data.remote.damaged_files import damaged_files
from saepipe.data.remote.places import folder_of, publish, refresh_as_is, remove, writer_lock

GROUP = "zarr.json"
CONFIG = f"{artifact.LOG}/config.yaml"

Pool = tuple[str, int]
"""Split and pool number."""


def repair(path: Path) -> dict[str, Any]:
    """Removes the damaged files from a cache, finished or not; leaves an undamaged one unchanged.

    Reads every file. Until the next harvest ends, a damaged cache is unfinished: it has no COMMITTED.

    Returns:
        damaged: one sentence per damaged file; lost: the same for files of earlier lengths (`ancestors`) that no
        harvest makes again, so that runs trained from that length cannot be evaluated; pools: split, number and rows of
        each pool that must be made again; tokens: the sum of their rows, which must pass through the model;
        fingerprint: the cache's, which the harvest will reproduce, or None if the cache was unfinished; config: path of
        the cache's config, written for the harvest, and next: the command to run, both None if nothing is wrong.

    Raises:
        ConfigError: if there is no cache.
        CorruptDataError: if its description or its manifest is damaged; nothing is changed in this case.
        LockedError: if another process is writing it.
    """
    refresh_as_is(path := folder_of(path))
    if not (path / GROUP).is_file() and not (path / artifact.MANIFEST).is_file():
        raise ConfigError(f"there is no cache at {path}", hint="check the path")
    with writer_lock(path, as_is=True):
        fingerprint, lines = _read_manifest(path)
        check_lines(path, lines)
        damage = {name: problem for line in lines for name, problem in _damage(path, line)}
        config = _config(path, damage)
        intact = {name: entry for line in lines for name, entry in line["files"].items() if name not in damage}
        relink(path, [{"files": intact}], hashes=True)
        lost = list(damaged_ancestors(path))
        dropped, config_file = _pools_of(lines, damage), _config_file(path)
        if unfinished := bool(damage) or fingerprint is None:
            artifact.write_file(config_file, yaml.safe_dump(config, sort_keys=False).encode())
        if damage:
            dropped |= _partial_pools(lines, dropped, config)
            _delete(path, lines, damage, dropped)
        pools = [line for line in lines if line["kind"] == "pool" and _pool(line) in dropped]
        return {
            "cache": str(path),
            "fingerprint": fingerprint,
            "damaged": list(damage.values()),
            "lost": lost,
            "pools": [{"split": line["split"], "pool": line["pool"], "rows": line["num_rows"]} for line in pools],
            "tokens": sum(line["num_rows"] for line in pools),
            "config": str(config_file) if unfinished else None,
            "next": f"saepipe harvest --config {config_file} --out {path}" if unfinished else None,
        }


def _read_manifest(path: Path) -> tuple[str | None, list[Line]]:
    """Fingerprint and manifest, checked against the seal if there is one."""
    try:
        if artifact.is_committed(path):
            return artifact.open_committed(path, "cache")
        return None, rank_manifests.read_lines(path)
    except CorruptDataError as error:
        raise CorruptDataError(
            f"{error.message}: this cannot be repaired",
            hint="nothing was changed: without a sound manifest no file can be checked; harvest into another folder",
        ) from None


def _config_file(path: Path) -> Path:
    """Returns where the config goes: into the cache's log; of a cache in a bucket, into the user's cache folder."""
    if address := mirrored(path):
        return cache_folder() / "repairs" / f"{address.bucket}-{address.key.replace('/', '-')}.yaml"
    return path / CONFIG


def _damage(path: Path, line: Line) -> Iterable[tuple[str, str]]:
    """Yields each damaged file of a manifest line, with a sentence about it."""
    for name, expected in line["files"].items():
        for problem in damaged_files(path, [{"files": {name: expected}}]):
            yield name, problem


def _config(path: Path, damage: Mapping[str, str]) -> dict[str, Any]:
    """The config that the cache was made with."""
    problem = damage.get(GROUP)
    try:
        config: dict[str, Any] = group_attributes(path)["config"]
    except (CorruptDataError, KeyError) as error:
        problem = problem or f"{path / GROUP} does not describe a cache ({error})"
    if problem:
        raise CorruptDataError(
            f"{problem}: this file holds the cache's config and cannot be repaired",
            hint="restore a copy of it, or harvest again into another folder",
        )
    return config


def _pool(line: Line) -> Pool:
    return line["split"], line["pool"]


def _pools_of(lines: Iterable[Line], damage: Mapping[str, str]) -> set[Pool]:
    return {_pool(line) for line in lines if line["kind"] == "shard" and damage.keys() & line["files"].keys()}


def _partial_pools(lines: Iterable[Line], dropped: set[Pool], config: Mapping[str, Any]) -> set[Pool]:
    """Last pools that are not full, which a harvest makes again if the training rows do not reach `num_tokens`."""
    full = {"train": config["pool_shards"] * config["shard_rows"], "heldout": config["shard_rows"]}
    kept = [line for line in lines if line["kind"] == "pool" and _pool(line) not in dropped]
    reached = [line["pool"] * full["train"] + line["num_rows"] for line in kept if line["split"] == "train"]
    if max(reached, default=0) == config["num_tokens"]:
        return set()
    return {_pool(line) for line in kept if line["num_rows"] < full[line["split"]]}


def _delete(path: Path, lines: Iterable[Line], damage: Iterable[str], dropped: set[Pool]) -> None:
    """Deletes the damaged files, then the seal, then the pools' lines in the manifest.

    In this order, a harvest after a crash in between finds either pools without files, which it makes again, or a
    sealed cache with missing files, which it refuses. It never seals damaged data.
    """
    remove(path, damage)
    for folder in {(path / name).parent for name in damage}:
        if folder.is_dir():
            artifact.sync_folder(folder)
    lines = list(lines)
    kept = [line for line in lines if line["kind"] in ("shard", "pool") and _pool(line) not in dropped]
    artifact.rewrite_manifest(path, [*kept, *text_lines(lines, kept)])
    publish(path)
    rank_manifests.remove(path)
