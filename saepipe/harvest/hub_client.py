"""The HTTP client for hubs: each request has a time-out and a bounded number of attempts, and says why it failed.

Hugging Face's client waits without limit in some requests, and its libraries retry on top of each other: 20 attempts
of a file, each of six attempts of a request. Here all attempts are made in one place. What cannot be had raises
RequestFailed, which no library takes for a reason to try again, or to go on without an optional file.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from saepipe.data.errors import RemoteError


class RequestFailed(RemoteError):  # noqa: N818 - a reason; `hub.remote_error` adds what was requested
    """A request got no proper answer."""


ATTEMPTS = 3
PATIENCE = 45.0
"""Seconds after which no further attempt is begun."""
FIRST_WAIT = 1.0
"""Seconds before the second attempt, on average; doubled before each later one."""

_TRANSIENT = {
    408: "request time-out",
    429: "too many requests",
    500: "internal error",
    502: "bad gateway",
    503: "unavailable",
    504: "gateway time-out",
}
_REPEATABLE = ("GET", "HEAD", "OPTIONS", "PUT")
_RETRY = "try again later; HF_HUB_OFFLINE=1 uses what was fetched before"


def patient_client() -> Any:
    """Makes the client of `huggingface_hub`, with time-outs and attempts as above."""
    client = default_client_factory()
    send = client.send

    def send_patiently(request: Any, **options: Any) -> Any:
        if _limit_timeout(request):
            return _attempts(request, lambda: send(request, **options))
        return send(request, **options)

    client.send = send_patiently  # type: ignore[method-assign]
    return client


set_client_factory(patient_client)


def _limit_timeout(request: Any) -> bool:
    """Lowers a request's time-outs to ours. False if its caller has less patience, and so wants no second attempt.

    A hub may need longer to answer what it has to store first.
    """
    limit = constants.HF_HUB_DOWNLOAD_TIMEOUT * (1 if request.method in ("GET", "HEAD") else 4)
    asked = request.extensions.get("timeout") or {}
    wanted = [seconds for seconds in asked.values() if seconds is not None]
    request.extensions["timeout"] = {
        name: min(limit, asked.get(name) or limit) for name in ("connect", "read", "write", "pool")
    }
    return not wanted or min(wanted) >= min(constants.HF_HUB_DOWNLOAD_TIMEOUT, constants.HF_HUB_ETAG_TIMEOUT)


def _attempts(request: Any, send: Callable[[], Any]) -> Any:
    """Sends a request until it is answered; raises RequestFailed with the last reason if it is not.

    A body that is read from a file is sent once, since only the library can rewind it for another attempt.
    """
    start, whole_body = time.monotonic(), type(request.stream).__name__ == "ByteStream"
    for attempt in range(1, ATTEMPTS + 1):
        asked_wait, cause = 0.0, None
        try:
            response = send()
        except Exception as error:  # the classes depend on the HTTP library of this version of huggingface_hub
            if (reason := broken_connection(error)) is None:
                raise
            cause, repeatable = error, request.method in _REPEATABLE
        else:
            if _is_web_page(request, response):
                hint = "check HF_ENDPOINT, and whether a proxy or a login page answers in the hub's place"
                raise RequestFailed("a web page came instead of data", hint=hint)
            status = response.status_code
            if status not in _TRANSIENT or not whole_body:
                return response
            response.close()
            asked_wait, repeatable = _retry_after(response), request.method in _REPEATABLE or status in (429, 503)
            reason = f"it answered {status}, {_TRANSIENT[status]}"
            reason += f", and asks to wait {asked_wait:,.0f} s" if asked_wait else ""
        wait = asked_wait or FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        is_last = attempt == ATTEMPTS or time.monotonic() - start + wait > PATIENCE
        if is_last or not repeatable or not whole_body:
            times = f" ({attempt} attempts)" if attempt > 1 else ""
            raise RequestFailed(reason + times, hint=_RETRY) from cause
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def broken_connection(error: BaseException) -> str | None:
    """Says what happened to the connection, if this is what the error of an HTTP library is about."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "TransportError" not in kinds:
        return None
    if "ConnectTimeout" in kinds or "ConnectError" in kinds:
        return f"cannot connect to {constants.ENDPOINT} ({error})"
    if "TimeoutException" in kinds:
        return f"it did not answer in time (HF_HUB_DOWNLOAD_TIMEOUT is {constants.HF_HUB_DOWNLOAD_TIMEOUT} s)"
    if "ProtocolError" in kinds:
        return f"its answer was cut short ({error})"
    return f"the connection broke ({error or type(error).__name__})"


def is_from_the_network(error: BaseException) -> bool:
    """Returns whether a library let an error of a request through, as transformers does in the middle of a file."""
    return isinstance(error, RequestFailed) or broken_connection(error) is not None


def _is_web_page(request: Any, response: Any) -> bool:
    """Returns whether a login page or the like came with the status of a success."""
    html = str(response.headers.get("Content-Type", "")).startswith("text/html")
    return html and response.status_code == 200 and not request.url.path.endswith((".html", ".htm"))


def _retry_after(response: Any) -> float:
    """Seconds that the hub asks to wait; 0 if it does not say."""
    value = str(response.headers.get("Retry-After", ""))
    return float(value) if value.isdecimal() else 0.0
