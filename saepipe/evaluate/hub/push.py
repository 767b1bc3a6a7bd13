"""Sends finished runs to a hub with a model card, in one commit: all of it arrives or nothing.

In the repository each run is in `[folder/]<variant>/seed-<n>/`, with the same files as here, so that its seal is valid
there too and SAELens finds `<that folder>/sae`. The card is README.md of the folder that was given.
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
from saepipe.harvest.hub_client import RequestFailed

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
    """Sends runs with their card, and returns what was sent.

    Checkpoints, logs, notes and tokens are not sent. config.yaml has the cache's path as it was given to `train`, and
    is part of the run's fingerprint: if it, or a result, has an absolute path, the run needs `local_paths` to be sent.

    Args:
        runs: finished runs; the folder of a variant or study means all runs below it.
        to: `hf://org/name[@branch][/folder]`; a missing repository or branch is created.
        dry_run: only return what would be sent; uses no network.
        private: make a new repository private, and refuse an existing public one; None: the hub's default.
        message: commit message.
        licence: the hub's id of the SAEs' licence (`mit`).
        local_paths: allow files that contain absolute paths of this machine.
        cache: the runs' cache, if it is no longer at the path in their configs.
        api: client of the hub, with endpoint and token; by default that of the environment.
        progress: receives a message about the health findings.

    Returns:
        repository, revision, runs (their folders there), url, files (path: bytes), bytes, findings, local_paths,
        left_out, card, dry_run; if sent, also commit, changed (whether anything was new) and deleted (older files of
        the same runs).

    Raises:
        ConfigError: as `Parcel.pack`; if files contain local paths, the repository has runs that the card would not
            cover, it is public but should be private, or the hub does not know the licence.
        CorruptDataError: if a run is unfinished or damaged.
        RemoteError: if the hub refuses.
    """
    api, progress = api or HfApi(), progress or Silent()
    parcel = Parcel.pack(runs, Address.parse(to), licence, cache)
    report = parcel.to_dict() | {"url": f"{api.endpoint}/{parcel.address.repo}", "dry_run": dry_run}
    _warn(parcel, progress)
    if dry_run:
        return report
    if parcel.local_paths and not local_paths:
        listed = "\n".join(f"  {line}" for line in parcel.local_paths)
        hint = "--local-paths if others may read them; runs trained with a relative cache path have none"
        raise ConfigError(f"these files contain local paths of this machine:\n{listed}", hint=hint)
    try:
        return report | _send(parcel, api, private, message or f"saepipe: {', '.join(parcel.folders)}")
    except Exception as error:  # of the hub's client or of the HTTP library that it uses
        if isinstance(error, SaepipeError) and not isinstance(error, RequestFailed):
            raise
        raise _hub_error(error, parcel.address) from error


def _warn(parcel: Parcel, progress: Progress) -> None:
    if parcel.findings:
        listed = "\n".join(f"  {line}" for line in parcel.findings)
        progress.say(f"{len(parcel.findings)} HEALTH FINDINGS, SHOWN AT THE TOP OF THE CARD:\n{listed}")
    if parcel.left_out:
        progress.say(f"left out, since they are results of earlier runs in these folders: {', '.join(parcel.left_out)}")


def _hub_error(error: Exception, address: Address) -> SaepipeError:
    if str(error).startswith("Invalid metadata in README.md"):
        return ConfigError(f"the hub rejects the card: {error}", hint="use a licence id of the hub, such as mit")
    instead = "unset it; a dry run needs no network"
    return remote_error(KIND, address.repo, address.revision, error, action="write", offline_hint=instead)


def _send(parcel: Parcel, api: HfApi, private: bool | None, message: str) -> dict[str, Any]:
    """Commits the files on top of the commit that was read, and checks that all of them arrived."""
    repo = parcel.address.repo
    before, head = _prepare(parcel, api, private)
    stale = [name for name in before if name not in parcel.files and _is_below(name, parcel.folders)]
    operations = [CommitOperationAdd(name, content) for name, content in parcel.files.items()]
    commit = api.create_commit(
        repo,
        [*operations, *map(CommitOperationDelete, stale)],
        commit_message=message,
        revision=parcel.address.revision,
        parent_commit=head,
    )
    arrived = {file.rfilename for file in api.model_info(repo, revision=commit.oid).siblings or ()}
    if missing := [name for name in parcel.files if name not in arrived]:
        problem = f"the hub left out {', '.join(missing)} of {parcel.address}"
        raise RemoteError(problem, hint=f"if {repo} has a .gitignore, remove it and push again")
    return {"commit": commit.oid, "changed": commit.oid != head, "deleted": stale}


def _prepare(parcel: Parcel, api: HfApi, private: bool | None) -> tuple[list[str], str | None]:
    """Returns the repository's files and commit. Creates a missing repository or branch; refuses an unsuitable one."""
    repo, revision = parcel.address.repo, parcel.address.revision
    exists = True
    try:
        info = api.model_info(repo, revision=revision)
    except RevisionNotFoundError:
        info, exists = api.model_info(repo), False
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private)
        info, exists = api.model_info(repo), revision in (None, "main")
    if private and not info.private:
        raise ConfigError(f"{repo} already exists and is public", hint="use another name, or make it private there")
    names = [file.rfilename for file in info.siblings or ()]
    _refuse_other_runs(names, parcel)
    if revision and not exists:
        api.create_branch(repo, branch=revision)
    return names, info.sha


def _refuse_other_runs(names: Iterable[str], parcel: Parcel) -> None:
    """Raises ConfigError if the repository has runs that the new card, with its findings, would not cover."""
    seals = [PurePosixPath(name) for name in names if PurePosixPath(name).name == COMMITTED]
    present = {str(seal.parent) for seal in seals if str(seal).startswith(parcel.address.file(""))}
    if others := sorted(present.difference(parcel.folders)):
        raise ConfigError(
            f"{parcel.address} has other runs, which the new card would not cover: {', '.join(others)}",
            hint="push all runs together, or push to another folder, branch or repository",
        )


def _is_below(name: str, folders: Iterable[str]) -> bool:
    return any(name.startswith(f"{folder}/") for folder in folders)
