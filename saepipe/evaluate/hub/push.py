"""Sends finished runs to a hub, with a card: one commit, in which either all of it is there or nothing.

In the repository each run lies in `[folder/]<variant>/seed-<n>/` with the files that it has here, so that its seal
holds there too, and SAELens finds `<that>/sae`. The card is README.md of the folder that was named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from saepipe.data.errors import ConfigError, RemoteError, SaepipeError
from saepipe.data.folders.artifact import COMMITTED
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.evaluate.hub.address import Address
from saepipe.evaluate.hub.parcel import Parcel
from saepipe.harvest.hub import remote_error

KIND = "model repository"


def push(
    runs: Path | str | Sequence[Path | str],
    to: str,
    *,
    dry_run: bool = False,
    private: bool | None = None,
    message: str | None = None,
    licence: str | None = None,
    local_paths: bool = False,
    cache: Path | None = None,
    api: HfApi | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Sends one or several runs and their card, and says what was sent.

    Checkpoints, logs, notes and tokens stay here. config.yaml names the cache as it was named to `train`, and is part
    of the run's fingerprint: where it, or a result, holds an absolute path, the run is sent only with `local_paths`.

    Args:
        runs: finished runs.
        to: `hf://org/name[@branch][/folder]`; the repository and the branch are made where there are none.
        dry_run: only say what would be sent; asks no network.
        private: of a repository that is made now; None: as the hub does. True refuses one that is public.
        message: of the commit.
        licence: of the SAEs, as the hub calls it (`mit`).
        local_paths: whether absolute paths of this machine may be read there.
        cache: the runs' cache, where it no longer lies where they were trained from.
        api: the hub's client, with its endpoint and token; the environment's if not given.
        progress: told, loudly, of what the rules of health have found.

    Returns:
        repository, revision, url, files (path: bytes), bytes, findings, local_paths, left_out, card, dry_run; once
        sent also commit, changed (whether anything was new) and deleted (older files of the same runs).

    Raises:
        ConfigError: as `Parcel.pack`; if files hold local paths, the repository holds runs of which the card would not
            tell, it is public and should not be, or the hub knows no such licence.
        CorruptDataError: if a run is not finished, or damaged.
        RemoteError: if the hub does not take it.
    """
    api, progress = api or HfApi(), progress or Silent()
    parcel = Parcel.pack([runs] if isinstance(runs, Path | str) else runs, Address.parse(to), licence, cache)
    answer = parcel.to_dict() | {"url": f"{api.endpoint}/{parcel.address.repo}", "dry_run": dry_run}
    _warn(parcel, progress)
    if dry_run:
        return answer
    if parcel.local_paths and not local_paths:
        listed = "\n".join(f"  {line}" for line in parcel.local_paths)
        hint = "--local-paths, if others may read them; a run holds none if its cache was given by a relative path"
        raise ConfigError(f"these files tell where things lie on this machine:\n{listed}", hint=hint)
    try:
        return answer | _send(parcel, api, private, message or f"saepipe: {', '.join(parcel.folders)}")
    except SaepipeError:
        raise
    except Exception as error:  # of the hub's client, or of whatever HTTP library that uses
        raise _told(error, parcel.address) from error


def _warn(parcel: Parcel, progress: Progress) -> None:
    if parcel.findings:
        listed = "\n".join(f"  {line}" for line in parcel.findings)
        progress.say(f"{len(parcel.findings)} FINDINGS OF HEALTH STAND ON TOP OF THE CARD:\n{listed}")
    if parcel.left_out:
        progress.say(f"left out, as results of runs that lay there before: {', '.join(parcel.left_out)}")


def _told(error: Exception, address: Address) -> SaepipeError:
    if str(error).startswith("Invalid metadata in README.md"):
        return ConfigError(f"the hub does not take the card: {error}", hint="a licence as the hub calls it: mit, other")
    instead = "unset it; a dry run needs no network"
    return remote_error(KIND, address.repo, address.revision, error, doing="write", instead=instead)


def _send(parcel: Parcel, api: HfApi, private: bool | None, message: str) -> dict[str, Any]:
    """One commit on top of the one that was looked at, and a look at what came of it."""
    repo = parcel.address.repo
    before, head = _look(parcel, api, private)
    stale = [name for name in before if name not in parcel.files and _lies_in(name, parcel.folders)]
    operations = [CommitOperationAdd(name, content) for name, content in parcel.files.items()]
    commit = api.create_commit(
        repo,
        [*operations, *map(CommitOperationDelete, stale)],
        commit_message=message,
        revision=parcel.address.revision,
        parent_commit=head,
    )
    there = {file.rfilename for file in api.model_info(repo, revision=commit.oid).siblings or ()}
    if missing := [name for name in parcel.files if name not in there]:
        what = f"the hub left out {', '.join(missing)} of {parcel.address}"
        raise RemoteError(what, hint=f"is there a .gitignore in {repo}? remove it and push again")
    return {"commit": commit.oid, "changed": commit.oid != head, "deleted": stale}


def _look(parcel: Parcel, api: HfApi, private: bool | None) -> tuple[list[str], str | None]:
    """(files, commit) of what is there; makes the repository and the branch where there are none, refuses others."""
    repo, revision = parcel.address.repo, parcel.address.revision
    is_there = True
    try:
        info = api.model_info(repo, revision=revision)
    except RevisionNotFoundError:
        info, is_there = api.model_info(repo), False
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private)
        info, is_there = api.model_info(repo), revision in (None, "main")
    if private and not info.private:
        raise ConfigError(f"{repo} is there already, and public", hint="another name, or make it private there")
    names = [file.rfilename for file in info.siblings or ()]
    _refuse_others(names, parcel)
    if revision and not is_there:
        api.create_branch(repo, branch=revision)
    return names, info.sha


def _refuse_others(names: Iterable[str], parcel: Parcel) -> None:
    """A card that is written anew must not pass over runs, and what was found about them."""
    seals = [PurePosixPath(name) for name in names if PurePosixPath(name).name == COMMITTED]
    there = {str(seal.parent) for seal in seals if str(seal).startswith(parcel.address.file(""))}
    if others := sorted(there.difference(parcel.folders)):
        raise ConfigError(
            f"{parcel.address} holds other runs, of which the card would no longer tell: {', '.join(others)}",
            hint="push all of them together, or to another folder, branch or repository",
        )


def _lies_in(name: str, folders: Iterable[str]) -> bool:
    return any(name.startswith(f"{folder}/") for folder in folders)
