"""Failures of requests to a bucket: what they mean and what would do, and which answers are asked for again."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from saepipe.data.errors import AGAIN, CorruptDataError, RemoteError

ATTEMPTS = 4
"""How often what comes whole but wrong is asked for."""

PAST_THE_END = ("InvalidRange", "416 Range Not Satisfiable")
"""Words of the answer to a request for a part after the end of an object."""

Answer = TypeVar("Answer")

_HINTS = {
    "NoSuchKey": "check the address; what is listed and not there was removed from the bucket",
    "BlobNotFound": "check the address; what is listed and not there was removed from the container",
    "NoSuchBucket": "check the bucket's name; saepipe creates none",
    "ContainerNotFound": "check the container's name; saepipe creates none",
    "computeMetadata": "no credentials: set GOOGLE_APPLICATION_CREDENTIALS",
    "169.254.169.254": "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true",
    "Account must be specified": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "AccessDenied": "check the credentials, and what they are allowed to do",
    "403 Forbidden": "check the credentials, and what they are allowed to do",
    "401 Unauthorized": "check the credentials",
    "InvalidAccessKeyId": "check the credentials",
    "SignatureDoesNotMatch": "check the credentials",
    "PermanentRedirect": "set AWS_REGION to the region of the bucket",
    "error sending request": "check the network and, for a server of your own, what docs/storage.md says of it"
    " (AWS_ENDPOINT_URL, GOOGLE_BASE_URL or AZURE_STORAGE_ENDPOINT)",
}
"""What would do about a request that failed, by words of its message."""


class MissingObjectError(RemoteError):
    """There is no object of this key, or no such bucket."""


class BrokenListingError(RemoteError):
    """A listing broke off, which obstore takes for a whole answer."""


def asked_again(ask: Callable[[], Answer]) -> Answer:
    """Returns an answer that is asked for again if it comes whole but wrong."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return ask()
        except (CorruptDataError, BrokenListingError):
            time.sleep(random.uniform(0.05, 0.2) * 2**attempt)
    return ask()


def explained(error: BaseException) -> tuple[str, str]:
    """Returns the cause of a failure in one line, with the number of repetitions, and what would do about it."""
    text = str(error).partition("\n\nDebug source")[0]
    hint = next((hint for words, hint in _HINTS.items() if words in text), AGAIN)
    answer = re.search(r"<Code>(.*?)</Code>.*?<Message>([^<\n]*)", text, re.DOTALL)
    cause = f"{answer[1]}: {answer[2]}" if answer else " ".join(text.rpartition(" - ")[2].split())
    repeated = re.search(r" in ([\d.]+m?s), after (\d+) retries", text)
    return f"{cause[:300]} (repeated {repeated[2]} times in {repeated[1]})" if repeated else cause[:300], hint
