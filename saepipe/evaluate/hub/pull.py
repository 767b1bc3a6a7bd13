"""Fetches a run from a hub: the same bytes, so the same fingerprint, with its evaluations.

Only data is fetched and no code is run: a run whose config names Python files is opened only on request.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from saepipe.data.bucket_address import mirrored, mirrors
from saepipe.data.config.yaml_file import read_yaml
from saepipe.data.errors import ConfigError, CorruptDataError, SaepipeError
from saepipe.data.folders import artifact
from saepipe.data.folders.inside import check_name, inside
from saepipe.data.remote.places import folder_of, publish, refresh
from saepipe.evaluate.hub.address import Address
from saepipe.evaluate.hub.contents import READABLE, readable
from saepipe.evaluate.hub.facts import check_cache
from saepipe.evaluate.hub.push import KIND
from saepipe.harvest.hub import remote_error
from saepipe.harvest.hub_client import RequestFailed
from saepipe.train.formats import saelens
from saepipe.train.rundir import run_files
from saepipe.train.rundir.finished_run import open_run
from saepipe.train.rundir.sealed_log import damaged_log

_IGNORED = frozenset({".gitattributes", ".gitignore"})


def pull(
    source: str, out: Path | str, cache: Path | None = None, *, trust_plugins: bool = False, api: HfApi | None = None
) -> Path:
    """Fetches the run at `source` into `out`; does nothing if it is there already.

    Args:
        source: `hf://org/name[@revision][/folder]`; the folder of a run, or one with a single run below it.
        out: folder for the run, or its address in a bucket.
        cache: cache to compare with the one that the run was made from; pass it to `evaluate --set cache=` too.
        trust_plugins: open a run whose config names Python files, which runs those files of this machine.
        api: client of the hub, with endpoint and token; by default that of the environment.

    Returns:
        `out`.

    Raises:
        ConfigError: if there is no run or more than one; if `out` holds something else; if the run was not made from
            `cache`; if the run needs plugins that are not trusted.
        CorruptDataError: if the run has files of other kinds, or its digests do not match.
        RemoteError: if the hub refuses.
    """
    out, api, address = folder_of(out), api or HfApi(), Address.parse(source)
    refresh(out)
    with remote_errors(address):
        commit = str(api.model_info(address.repo, revision=address.revision).sha)
        listed = api.list_repo_tree(address.repo, recursive=True, revision=commit)
        names = [entry.path for entry in listed if isinstance(entry, RepoFile)]
    run_address = _find_run(names, address)
    files = _files_of(names, run_address)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = mirrors().parent if mirrored(out) else out.parent  # what lies in a mirror is read from its bucket
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".partial", dir=beside) as partial:
        fetched = Path(partial) / "repository"
        run = inside(fetched, run_address.folder) if run_address.folder else fetched
        if out.is_dir() and any(out.iterdir()):
            with remote_errors(address):
                seal = run_address.file(artifact.COMMITTED)
                api.hf_hub_download(address.repo, seal, revision=commit, local_dir=fetched)
            _check_same(out, (run / artifact.COMMITTED).read_text().strip(), run_address)
            return out
        with remote_errors(address):
            patterns = [glob.escape(name) for name in files]
            api.snapshot_download(address.repo, revision=commit, local_dir=fetched, allow_patterns=patterns)
        shutil.rmtree(fetched / ".cache")  # the client's own files, which would be inside a run at the root
        with _with_address(run, run_address):
            _check(run, cache, trust_plugins)
        _publish(run, out)
    return out


@contextmanager
def remote_errors(address: Address) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of the hub's client or of the HTTP library that it uses
        if isinstance(error, SaepipeError) and not isinstance(error, RequestFailed):
            raise
        raise remote_error(KIND, address.repo, address.revision, error, offline_hint="unset it") from error


@contextmanager
def _with_address(path: Path, address: Address) -> Iterator[None]:
    """Replaces the temporary path in error messages by the run's address on the hub."""
    try:
        yield
    except SaepipeError as error:
        raise type(error)(error.message.replace(str(path), str(address)), hint=error.hint) from error


def _find_run(names: Iterable[str], address: Address) -> Address:
    """Returns the address of the only run at or below `address`."""
    inside = [name for name in names if name.startswith(address.file(""))]
    folders = sorted(
        {str(PurePosixPath(name).parent) for name in inside if PurePosixPath(name).name == artifact.COMMITTED}
    )
    addresses = [replace(address, folder="" if folder == "." else folder) for folder in folders]
    if len(addresses) == 1:
        return addresses[0]
    if addresses:
        listed = "\n".join(f"  {run_address}" for run_address in addresses)
        raise ConfigError(f"{address} holds {len(addresses)} runs:\n{listed}", hint="give the address of one of them")
    if any(PurePosixPath(name).name == saelens.CONFIG for name in inside):
        hint = f"`hf download {address.repo}`, then `saepipe import FOLDER --from saelens --cache CACHE --out RUN`"
        raise ConfigError(f"{address} is a SAELens folder, not a run of saepipe", hint=hint)
    raise ConfigError(f"{address} holds no run", hint="check the folder and the revision")


def _files_of(names: Iterable[str], run_address: Address) -> Sequence[str]:
    """Returns the run's files; raises CorruptDataError if some are of kinds that no run has."""
    inside = [name for name in names if name.startswith(run_address.file(""))]
    files = [name for name in inside if PurePosixPath(name).name not in _IGNORED]
    for name in files:
        check_name(Path(str(run_address)), name)
    if refused := [name for name in files if not readable(name)]:
        kinds = ", ".join(sorted(READABLE))
        hint = f"a run has only {kinds} and {artifact.COMMITTED}; nothing was downloaded"
        raise CorruptDataError(f"{run_address} has files of other kinds: {', '.join(refused)}", hint=hint)
    return files


def _check(run: Path, cache: Path | None, trust_plugins: bool) -> None:
    """Checks the seal and every digest, and only then reads the config, which may name Python files."""
    _, lines = artifact.open_committed(run, "pulled run")
    for problem in (*artifact.damaged_files(run, lines), *damaged_log(run)):
        raise CorruptDataError(problem, hint="pull it again")
    sealed = {name for line in lines for name in line.get("files", {})}
    if run_files.CONFIG not in sealed:
        raise CorruptDataError(f"the seal does not cover {run_files.CONFIG}", hint="it is not a run of saepipe")
    plugins = read_yaml(run / run_files.CONFIG)[0].get("plugins")
    if plugins and not trust_plugins:
        raise ConfigError(
            f"the config names Python files, which would run when the run is opened: {', '.join(map(str, plugins))}",
            hint="--trust-plugins to run these files of this machine",
        )
    opened = open_run(run)
    if cache:
        check_cache(opened, cache)


def _check_same(out: Path, seal: str, run_address: Address) -> None:
    """Raises ConfigError if `out` is not the run with this seal, and CorruptDataError if it is damaged."""
    if not artifact.is_committed(out) or artifact.open_committed(out, "run")[0] != seal:
        raise ConfigError(f"{out} holds something other than {run_address}", hint="choose another --out, or remove it")
    open_run(out)


def _publish(run: Path, out: Path) -> None:
    """Moves the run to `out` by one rename, after all of it is on disk."""
    for path in [*run.rglob("*"), run]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    run.rename(out)
    artifact.sync_folder(out.parent)
    publish(out)
