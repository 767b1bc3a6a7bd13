"""The Hugging Face hub: the commit that a dataset's name stands for, and its refusals in plain words."""

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
    (RepositoryNotFoundError, "there is none of that name", "check the id or path; `hf auth login` for a private one"),
    (RevisionNotFoundError, "it has no such revision", "a branch, a tag or a commit of it"),
)

_STATUSES: dict[int, tuple[str, str]] = {
    401: ("it knows no such user", "`hf auth login`"),
    403: ("this user or token may not do that", "`hf auth login` with a token that may, or another name"),
    412: ("somebody else changed it meanwhile", "look at what is there now, then do it again"),
}


def remote_error(
    kind: str,
    source: str,
    revision: str | None,
    error: BaseException,
    *,
    doing: Literal["get", "write"] = "get",
    instead: str = "unset it, or give a file or folder",
) -> RemoteError:
    """What the hub's refusal of a model or dataset (`kind`) means for the user.

    Libraries wrap what the hub said, so the error's causes are searched too.

    Args:
        kind: the word for what was asked for.
        source: its id.
        revision: of it, if one was asked for.
        error: what the library raised.
        doing: what was tried.
        instead: what would do where HF_HUB_OFFLINE is set.
    """
    place = f"{source!r}{f' at {revision!r}' if revision else ''} {'from' if doing == 'get' else 'on'} the hub"
    problem = f"cannot {doing} the {kind} {place}: "
    if constants.HF_HUB_OFFLINE:
        return RemoteError(problem + "HF_HUB_OFFLINE is set", hint=instead)
    for cause in _causes(error):
        for refusal, reason, hint in _REASONS:
            if isinstance(cause, refusal):
                return RemoteError(problem + reason, hint=hint)
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code in _STATUSES:
            reason, hint = _STATUSES[cause.response.status_code]
            return RemoteError(problem + reason, hint=hint)
    hint = "check the id, the network, and `hf auth login` if it is gated"
    return RemoteError(problem + str(error).partition("\n")[0], hint=hint)


def dataset_commit(source: str, revision: str | None) -> str:
    """The commit (40 hex digits) that a branch or tag of a dataset stands for now.

    Raises:
        ConfigError: if `source` cannot be a hub id.
        RemoteError: if the hub does not know it, or cannot be reached.
    """
    try:
        return str(HfApi().dataset_info(source, revision=revision, timeout=60).sha)
    except HFValidationError as error:
        raise ConfigError(f"{source!r} is no file, no folder and no hub id", hint="check the path") from error
    except Exception as error:  # a broken connection is an error of whatever HTTP library the hub's client uses
        raise remote_error("dataset", source, revision, error) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
