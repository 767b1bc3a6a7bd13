"""The Hugging Face hub: resolves datasets to commits, and turns the hub's errors into plain messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from saepipe.data.errors import ConfigError, RemoteError

_REASONS: tuple[tuple[type[Exception], str, str], ...] = (
    (GatedRepoError, "it is gated", "ask for access on its page, then `hf auth login`"),
    (RepositoryNotFoundError, "it does not exist", "check the id or path; `hf auth login` if it is private"),
    (RevisionNotFoundError, "it has no such revision", "give a branch, a tag or a commit of it"),
)

_STATUSES: dict[int, tuple[str, str]] = {
    401: ("you are not logged in", "`hf auth login`"),
    403: ("this user or token lacks permission", "`hf auth login` with a token that has permission, or another name"),
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
) -> RemoteError:
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
    for cause in _causes(error):
        for error_type, reason, hint in _REASONS:
            if isinstance(cause, error_type):
                return RemoteError(problem + reason, hint=hint)
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code in _STATUSES:
            reason, hint = _STATUSES[cause.response.status_code]
            return RemoteError(problem + reason, hint=hint)
    hint = "check the id, the network, and `hf auth login` if it is gated"
    return RemoteError(problem + str(error).partition("\n")[0], hint=hint)


def dataset_commit(source: str, revision: str | None) -> str:
    """Returns the commit (40 hex digits) to which a branch or tag of a dataset points now.

    Raises:
        ConfigError: if `source` cannot be a hub id.
        RemoteError: if the hub has no such dataset, or cannot be reached.
    """
    try:
        return str(HfApi().dataset_info(source, revision=revision, timeout=60).sha)
    except HFValidationError as error:
        raise ConfigError(f"{source!r} is not a file, a folder or a hub id", hint="check the path") from error
    except Exception as error:  # the type for a broken connection depends on the HTTP library of the hub's client
        raise remote_error("dataset", source, revision, error) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
