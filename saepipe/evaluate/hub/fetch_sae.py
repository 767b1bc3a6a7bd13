"""Fetches one SAE from a hub into the hub's own cache: of a run, or a SAELens folder."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, constants
from huggingface_hub.hf_api import RepoFile

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.evaluate.hub.address import FORM, Address
from saepipe.evaluate.hub.pull import remote_errors
from saepipe.train.formats import saelens
from saepipe.train.rundir import run_files

SCHEME = "hf://"

_FILES = (saelens.CONFIG, saelens.WEIGHTS)


def fetch_sae(source: str, api: HfApi | None = None) -> Path:
    """Fetches the SAE at `hf://org/name[@revision][/folder]`; nothing that was fetched before is fetched again.

    Only its config, its weights and, if it is of a run, the run's manifest are fetched: no Python file that the run's
    config may name is needed.

    Returns:
        The folder of the SAE, in the hub's cache.

    Raises:
        ConfigError: if there is no SAE at or below the address, or more than one.
        CorruptDataError: if the SAE of a run is not what the run's seal covers.
        RemoteError: if the hub refuses or cannot be reached.
    """
    api, address = api or HfApi(), Address.parse(source)
    with remote_errors(address):
        names = _list(api, address)
    found = _find(names, address)
    of_run = replace(found, folder=str(PurePosixPath(found.folder).parent).removeprefix("."))
    is_run = PurePosixPath(found.folder).name == run_files.SAE and of_run.file(artifact.COMMITTED) in names
    wanted = [found.file(name) for name in _FILES]
    wanted += [of_run.file(name) for name in (artifact.COMMITTED, artifact.MANIFEST)] if is_run else []
    with remote_errors(address):
        patterns = [glob.escape(name) for name in wanted]
        root = Path(api.snapshot_download(address.repo, revision=address.revision, allow_patterns=patterns))
    if is_run:
        _check(root / of_run.folder, of_run)
    return root / found.folder


def _list(api: HfApi, address: Address) -> Sequence[str]:
    """Returns the files of the repository; with HF_HUB_OFFLINE, those that were fetched before."""
    if constants.HF_HUB_OFFLINE:
        root = Path(api.snapshot_download(address.repo, revision=address.revision, local_files_only=True))
        return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    listed = api.list_repo_tree(address.repo, recursive=True, revision=address.revision)
    return [entry.path for entry in listed if isinstance(entry, RepoFile)]


def _find(names: Sequence[str], address: Address) -> Address:
    """Returns the address of the only folder with an SAE at or below `address`."""
    below = {PurePosixPath(name) for name in names if name.startswith(address.file(""))}
    folders = sorted(path.parent for path in below if path.name == saelens.CONFIG)
    folders = [path for path in folders if path / saelens.WEIGHTS in below]
    addresses = [replace(address, folder="" if str(path) == "." else str(path)) for path in folders]
    if len(addresses) == 1:
        return addresses[0]
    if not addresses:
        raise ConfigError(
            f"{address} holds no {' and '.join(_FILES)}", hint=f"check the folder and the revision: {FORM}"
        )
    shown = "\n".join(f"  {found}" for found in addresses[:10]) + ("\n  ..." if len(addresses) > 10 else "")
    raise ConfigError(f"{address} holds {len(addresses)} SAEs:\n{shown}", hint="give the address of one of them")


def _check(run: Path, address: Address) -> None:
    """Raises CorruptDataError unless the run's seal covers its manifest, and the manifest the SAE."""
    _, lines = artifact.open_committed(run, "run")
    listed = {name: digest for line in lines for name, digest in line.get("files", {}).items()}
    names = [f"{run_files.SAE}/{name}" for name in _FILES]
    if missing := [name for name in names if name not in listed]:
        raise CorruptDataError(f"the seal of {address} does not cover {', '.join(missing)}")
    for name in names:  # links into the hub's cache, which `artifact.damaged_files` would refuse
        if artifact.digest_file(run / name) != listed[name]:
            raise CorruptDataError(f"{address.file(name)} of {address} is not what its seal covers")
