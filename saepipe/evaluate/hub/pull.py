"""Fetches a run from a hub as it was sent: the same bytes, so the same fingerprint, and its evaluations with it.

Only data is fetched, and nothing of it is run: a run whose config names Python files is opened on demand alone.
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

from saepipe.data.config.yaml_file import read_yaml
from saepipe.data.errors import ConfigError, CorruptDataError, SaepipeError
from saepipe.data.folders import artifact
from saepipe.evaluate.hub.address import Address
from saepipe.evaluate.hub.contents import READABLE, readable
from saepipe.evaluate.hub.facts import check_cache
from saepipe.evaluate.hub.push import KIND
from saepipe.harvest.hub import remote_error
from saepipe.train.formats import saelens
from saepipe.train.rundir import folder
from saepipe.train.rundir.load import open_run

_PASSED_OVER = frozenset({".gitattributes", ".gitignore"})


def pull(
    source: str, out: Path | str, cache: Path | None = None, *, trust_plugins: bool = False, api: HfApi | None = None
) -> Path:
    """Makes `out` the run that lies at `source`; leaves it as it is if it is that run already.

    Args:
        source: `hf://org/name[@revision][/folder]`; the folder of a run, or one with a single run below it.
        out: the run's folder here.
        cache: to be checked to be the one that the run was made from; `evaluate --set cache=` takes it.
        trust_plugins: open a run whose config names Python files, which runs those files of this machine.
        api: the hub's client, with its endpoint and token; the environment's if not given.

    Returns:
        `out`.

    Raises:
        ConfigError: if there is no run, or there are several; if `out` holds something else, or `cache` is another; if
            the run needs plugins that are not trusted.
        CorruptDataError: if files of other kinds lie in the run, or its digests do not hold.
        RemoteError: if the hub does not give it.
    """
    out, api, address = Path(out), api or HfApi(), Address.parse(source)
    with _asking(address):
        commit = str(api.model_info(address.repo, revision=address.revision).sha)
        listed = api.list_repo_tree(address.repo, recursive=True, revision=commit)
        names = [entry.path for entry in listed if isinstance(entry, RepoFile)]
    place = _one_run(names, address)
    files = _wanted(names, place)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".partial", dir=out.parent) as partial:
        fetched = Path(partial) / "repository"
        found = fetched / place.folder
        if out.is_dir() and any(out.iterdir()):
            with _asking(address):
                api.hf_hub_download(address.repo, place.file(artifact.COMMITTED), revision=commit, local_dir=fetched)
            _check_same(out, (found / artifact.COMMITTED).read_text().strip(), place)
            return out
        with _asking(address):
            patterns = [glob.escape(name) for name in files]
            api.snapshot_download(address.repo, revision=commit, local_dir=fetched, allow_patterns=patterns)
        shutil.rmtree(fetched / ".cache")  # the client's own notes; they lie beside a run at the root
        with _named(found, place):
            _check(found, cache, trust_plugins)
        _settle(found, out)
    return out


@contextmanager
def _asking(address: Address) -> Iterator[None]:
    try:
        yield
    except SaepipeError:
        raise
    except Exception as error:  # of the hub's client, or of whatever HTTP library that uses
        raise remote_error(KIND, address.repo, address.revision, error, instead="unset it") from error


@contextmanager
def _named(path: Path, place: Address) -> Iterator[None]:
    """Errors call what was fetched by where it lies on the hub."""
    try:
        yield
    except SaepipeError as error:
        raise type(error)(error.message.replace(str(path), str(place)), hint=error.hint) from error


def _one_run(names: Iterable[str], address: Address) -> Address:
    """The address of the run at or below `address`."""
    inside = [name for name in names if name.startswith(address.file(""))]
    places = sorted(
        {str(PurePosixPath(name).parent) for name in inside if PurePosixPath(name).name == artifact.COMMITTED}
    )
    places = ["" if place == "." else place for place in places]
    if len(places) == 1:
        return replace(address, folder=places[0])
    if places:
        listed = "\n".join(f"  {replace(address, folder=place)}" for place in places)
        raise ConfigError(f"{address} holds {len(places)} runs:\n{listed}", hint="name one of them")
    if any(PurePosixPath(name).name == saelens.CONFIG for name in inside):
        hint = f"`hf download {address.repo}`, then `saepipe import FOLDER --from saelens --cache CACHE --out RUN`"
        raise ConfigError(f"{address} is a folder of SAELens, not a run of saepipe", hint=hint)
    raise ConfigError(f"{address} holds no run", hint="check the folder and the revision")


def _wanted(names: Iterable[str], place: Address) -> Sequence[str]:
    """The run's files; raises CorruptDataError if some are of kinds that no run has."""
    inside = [name for name in names if name.startswith(place.file(""))]
    files = [name for name in inside if PurePosixPath(name).name not in _PASSED_OVER]
    if refused := [name for name in files if not readable(name) or ".." in PurePosixPath(name).parts]:
        kinds = ", ".join(sorted(READABLE))
        hint = f"a run is {kinds} and {artifact.COMMITTED}; nothing was fetched"
        raise CorruptDataError(f"{place} holds files of other kinds: {', '.join(refused)}", hint=hint)
    return files


def _check(run: Path, cache: Path | None, trust_plugins: bool) -> None:
    """The seal and every digest first; only then is the config read, which may name code."""
    _, lines = artifact.open_committed(run, "pulled run")
    for problem in artifact.damaged_files(run, lines):
        raise CorruptDataError(problem, hint="pull it again")
    sealed = {name for line in lines for name in line.get("files", {})}
    if folder.CONFIG not in sealed:
        raise CorruptDataError(f"the seal does not cover {folder.CONFIG}", hint="it is no run of saepipe")
    plugins = read_yaml(run / folder.CONFIG)[0].get("plugins")
    if plugins and not trust_plugins:
        raise ConfigError(
            f"its config names code, which would run when it is opened: {', '.join(map(str, plugins))}",
            hint="--trust-plugins, if those files of this machine are what you want to run",
        )
    opened = open_run(run)
    if cache:
        check_cache(opened, cache)


def _check_same(out: Path, sealed: str, place: Address) -> None:
    """Raises ConfigError unless the run with this seal lies in `out` already, CorruptDataError if it is damaged."""
    if not artifact.is_committed(out) or artifact.open_committed(out, "run")[0] != sealed:
        raise ConfigError(f"{out} holds something else than {place}", hint="choose another --out, or remove it")
    open_run(out)


def _settle(run: Path, out: Path) -> None:
    """Makes the run visible at `out` by one rename, when all of it is on disk."""
    for path in [*run.rglob("*"), run]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    run.rename(out)
    artifact.sync_folder(out.parent)
