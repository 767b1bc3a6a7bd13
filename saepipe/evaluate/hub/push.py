"""Sends finished runs to a hub, with a card: one commit, in which either all of it is there or nothing.

In the repository each run lies in `[folder/]<variant>/seed-<n>/` with the files that it has here, so that its seal
holds there too, and SAELens finds `<that>/sae`. The card is README.md of the folder that was named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from saepipe.data.artifact import COMMITTED
from saepipe.data.errors import ConfigError, RemoteError, SaepipeError
from saepipe.data.progress import Progress, Silent
from saepipe.evaluate.hub.address import Address
from saepipe.evaluate.hub.card import card, said
from saepipe.evaluate.hub.contents import Contents, is_local
from saepipe.evaluate.hub.facts import Facts
from saepipe.harvest.hub import remote_error
from saepipe.train.load import open_run

CARD = "README.md"
KIND = "model repository"


@dataclass(frozen=True)
class Parcel:
    """All that is to be sent."""

    address: Address
    files: Mapping[str, Path | bytes]
    """By their paths in the repository."""
    folders: tuple[str, ...]
    """Of the runs, in the repository."""
    card: str
    findings: tuple[str, ...]
    local_paths: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, int]:
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }


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
        ConfigError: if two runs would lie in one place, the repository holds runs of which the card would not tell, it
            is public and should not be, the card's licence is none, or files hold local paths.
        CorruptDataError: if a run is not finished, or damaged.
        RemoteError: if the hub does not take it.
    """
    api, progress = api or HfApi(), progress or Silent()
    parcel = pack([runs] if isinstance(runs, Path | str) else runs, Address.parse(to), licence, cache)
    _warn(parcel, progress)
    address, sizes = parcel.address, parcel.sizes
    answer: dict[str, Any] = {
        "repository": address.repo,
        "revision": address.revision or "main",
        "url": f"{api.endpoint}/{address.repo}",
        "files": sizes,
        "bytes": sum(sizes.values()),
        "findings": list(parcel.findings),
        "local_paths": list(parcel.local_paths),
        "left_out": list(parcel.left_out),
        "card": parcel.card,
        "dry_run": dry_run,
    }
    if dry_run:
        return answer
    if parcel.local_paths and not local_paths:
        listed = "\n".join(f"  {line}" for line in parcel.local_paths)
        hint = "--local-paths, if others may read them; runs whose cache was given by a relative path hold none"
        raise ConfigError(f"these files tell where things lie on this machine:\n{listed}", hint=hint)
    try:
        return answer | _send(parcel, api, private, message or _message(parcel))
    except SaepipeError:
        raise
    except Exception as error:  # of the hub's client, or of whatever HTTP library that uses
        if str(error).startswith("Invalid metadata in README.md"):
            raise ConfigError(
                f"the hub does not take the card: {error}", hint="a licence as the hub calls it"
            ) from None
        raise remote_error(
            KIND, address.repo, address.revision, error, doing="write", instead="unset it; a dry run needs no network"
        ) from error


def pack(runs: Sequence[Path | str], address: Address, licence: str | None, cache: Path | None) -> Parcel:
    """What a push to `address` would send; each run is opened, so its digests hold. Raises as `push`."""
    facts = [Facts.of(open_run(run), cache) for run in runs]
    if not facts:
        raise ConfigError("no run to push", hint="saepipe push RUN... --to hf://org/name")
    places = [address.within(known.label) for known in facts]
    if twice := [label for label, count in Counter(known.label for known in facts).items() if count > 1]:
        raise ConfigError(f"two runs are called {twice[0]}", hint="push them to folders of their own")
    contents = [Contents.of(known.run) for known in facts]
    page = card(list(zip(facts, places, strict=True)), licence)
    files: dict[str, Path | bytes] = {address.file(CARD): page.encode()}
    for known, place, content in zip(facts, places, contents, strict=True):
        files |= {place.file(name): known.run.path / name for name in content.files}
    told = [f"{known.label}/{line}" for known, c in zip(facts, contents, strict=True) for line in c.local_paths]
    told += [f"{CARD}: {word}" for word in dict.fromkeys(page.replace("`", " ").split()) if is_local(word)]
    return Parcel(
        address=address,
        files=files,
        folders=tuple(place.folder for place in places),
        card=page,
        findings=tuple(line for known in facts for severity in ("error", "warning") for line in said(known, severity)),
        local_paths=tuple(told),
        left_out=tuple(f"{known.label}/{n}" for known, c in zip(facts, contents, strict=True) for n in c.left_out),
    )


def _warn(parcel: Parcel, progress: Progress) -> None:
    if parcel.findings:
        listed = "\n".join(f"  {line}" for line in parcel.findings)
        progress.say(f"{len(parcel.findings)} FINDINGS OF HEALTH STAND ON TOP OF THE CARD:\n{listed}")
    if parcel.left_out:
        progress.say(f"left out, as results of runs that lay there before: {', '.join(parcel.left_out)}")


def _send(parcel: Parcel, api: HfApi, private: bool | None, message: str) -> dict[str, Any]:
    address = parcel.address
    before, head = _look(parcel, api, private)
    stale = [name for name in before if name not in parcel.files and _folder(name, parcel.folders)]
    operations = [CommitOperationAdd(name, content) for name, content in parcel.files.items()]
    commit: CommitInfo = api.create_commit(
        address.repo,
        [*operations, *map(CommitOperationDelete, stale)],
        commit_message=message,
        revision=address.revision,
        parent_commit=head,
    )
    there = {file.rfilename for file in api.model_info(address.repo, revision=commit.oid).siblings or ()}
    if missing := [name for name in parcel.files if name not in there]:
        what = f"the hub left out {', '.join(missing)} of {address}"
        raise RemoteError(what, hint=f"is there a .gitignore in {address.repo}? remove it and push again")
    return {"commit": commit.oid, "changed": commit.oid != head, "deleted": stale}


def _look(parcel: Parcel, api: HfApi, private: bool | None) -> tuple[list[str], str | None]:
    """(files, commit) of what is there; makes the repository and the branch where there are none, refuses others."""
    address, is_branch = parcel.address, True
    try:
        info = api.model_info(address.repo, revision=address.revision)
    except RevisionNotFoundError:
        info, is_branch = api.model_info(address.repo), False
    except RepositoryNotFoundError:
        api.create_repo(address.repo, private=private)
        info, is_branch = api.model_info(address.repo), address.revision in (None, "main")
    if private and not info.private:
        raise ConfigError(f"{address.repo} is there already, and public", hint="another name, or make it private there")
    names = [file.rfilename for file in info.siblings or ()]
    _refuse_others(names, parcel)
    if not is_branch and address.revision:
        api.create_branch(address.repo, branch=address.revision)
    return names, info.sha


def _refuse_others(names: Iterable[str], parcel: Parcel) -> None:
    """A card that is written anew must not pass over runs, and what was found about them."""
    there = [str(PurePosixPath(name).parent) for name in names if PurePosixPath(name).name == COMMITTED]
    others = [
        place for place in there if f"{place}/".startswith(parcel.address.file("")) and place not in parcel.folders
    ]
    if others:
        raise ConfigError(
            f"{parcel.address} holds other runs, of which the card would no longer tell: {', '.join(sorted(others))}",
            hint="push all of them together, or to another folder, branch or repository",
        )


def _folder(name: str, folders: Iterable[str]) -> bool:
    return any(name.startswith(f"{folder}/") for folder in folders)


def _message(parcel: Parcel) -> str:
    return f"saepipe: {parcel.folders[0] if len(parcel.folders) == 1 else f'{len(parcel.folders)} runs'}"
