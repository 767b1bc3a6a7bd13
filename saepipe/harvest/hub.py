"""The Hugging Face hub: resolves datasets to commits, and turns the hub's errors into plain messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from saepipe.data.errors import ConfigError, RemoteError, SaepipeError, machine_error
from saepipe.harvest.hub_client import RequestFailed, broken_connection

_REASONS: tuple[tuple[type[Exception], str, str], ...] = (
    (GatedRepoError, "it is gated", "ask for access at {page}, then `hf auth login`"),
    (RepositoryNotFoundError, "it does not exist", "check the id or path; `hf auth login` if it is private"),
    (RevisionNotFoundError, "it has no such revision", "give a branch, a tag or a commit of it"),
)

_STATUSES: dict[int, tuple[str, str]] = {
    401: ("you are not logged in", "`hf auth login`"),
    403: ("this user or token lacks permission", "`hf auth login` with a token that has permission, or another name"),
    404: ("it does not exist", "check the id or path; `hf auth login` if it is private"),
    412: ("somebody else changed it in the meantime", "check its current contents, then try again"),
}


def remote_error(
    kind: str,
    source: str,
    revision: str | None,
    error: BaseException,
    *,
    action: Literal["get", "write"] = "get",
    offline_hint: str = "unset it, or give a file or folder",
) -> SaepipeError:
    """Explains an error of the hub client to the user.

    Libraries wrap the hub's error, so its chain of causes is searched too.

    Args:
        kind: `model`, `dataset` or the like, for the message.
        source: the id.
        revision: the requested revision, if any.
        error: the exception that the library raised.
        action: the action that failed.
        offline_hint: the hint if HF_HUB_OFFLINE is set.
    """
    target = f"{source!r}{f' at {revision!r}' if revision else ''} {'from' if action == 'get' else 'on'} the hub"
    problem = f"cannot {action} the {kind} {target}: "
    if constants.HF_HUB_OFFLINE:
        return RemoteError(problem + "HF_HUB_OFFLINE is set", hint=offline_hint)
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{source}"
    for cause in _causes(error):
        if known := machine_error(cause):  # of this machine, such as a full disk
            return type(known)(problem + known.message, hint=known.hint)
        if isinstance(cause, RequestFailed):
            return RemoteError(problem + cause.message, hint=cause.hint)
        for error_type, reason, hint in _REASONS:
            # `datasets` says that a dataset is gated, but drops the error of the hub's client.
            is_gated = error_type is GatedRepoError and " is a gated dataset " in str(cause)
            if isinstance(cause, error_type) or is_gated:
                return RemoteError(problem + reason, hint=hint.format(page=page))
        if isinstance(cause, json.JSONDecodeError):
            return RemoteError(problem + "its answer is not JSON", hint="try again later, or check HF_ENDPOINT")
        if broken := broken_connection(cause):
            return RemoteError(problem + broken, hint="check the network, and try again later")
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code in _STATUSES:
            reason, hint = _STATUSES[cause.response.status_code]
            return RemoteError(problem + reason, hint=hint)
    hint = "check the id, the network, and `hf auth login` if it is gated"
    return RemoteError(problem + str(error).partition("\n")[0], hint=hint)


def dataset_commit(source: str, revision: str | None) -> str:
    """Returns the commit (40 hex digits) to which a branch or tag of a dataset points now.

    With HF_HUB_OFFLINE, it is the one to which it pointed when the dataset was downloaded.

    Raises:
        ConfigError: if `source` cannot be a hub id.
        RemoteError: if the hub has no such dataset, or cannot be reached.
    """
    if constants.HF_HUB_OFFLINE:
        return downloaded_dataset(source, revision).name
    try:
        return str(HfApi().dataset_info(source, revision=revision, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT).sha)
    except HFValidationError as error:
        raise ConfigError(f"{source!r} is not a file, a folder or a hub id", hint="check the path") from error
    except Exception as error:  # the type for a broken connection depends on the HTTP library of the hub's client
        raise remote_error("dataset", source, revision, error) from error


def downloaded_dataset(source: str, revision: str | None) -> Path:
    """Returns the folder of a dataset that `hf download` has fetched as a whole; its name is the commit.

    Raises:
        ConfigError: if `source` cannot be a hub id.
        RemoteError: if it was not fetched, or not all of it.
    """
    try:
        get_cached_repo_tree(source, repo_type="dataset", revision=revision)  # without it, nothing says what is missing
        return Path(snapshot_download(source, repo_type="dataset", revision=revision, local_files_only=True))
    except HFValidationError as error:
        raise ConfigError(f"{source!r} is not a file, a folder or a hub id", hint="check the path") from error
    except Exception as error:
        raise remote_error(
            "dataset",
            source,
            revision,
            error,
            offline_hint=f"unset it, or first run `hf download {source} --repo-type dataset`; or give a file or folder",
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
