"""Claims: only one process at a time writes a folder of a bucket, which has no locks.

A claim is an object that is put only if there is none. It holds a token, by which a process knows its own claim though
the answer to its request was lost. Its process renews it; a claim that stays the same for `LEASE_SECONDS` is of a
process that is gone, and is taken over, on condition that it is still the same.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from saepipe.data.bucket_address import Address, mirrors
from saepipe.data.errors import LockedError, RemoteError
from saepipe.data.remote.bucket import Bucket, MissingObjectError, bucket_of

FILE = "log/claim"

LEASE_SECONDS = 60.0
"""Time without renewal after which a claim lapses; a claim is renewed three times as often."""


class Claim:
    """A claim that this process holds."""

    def __init__(self, address: Address, token: str, e_tag: str) -> None:
        self.lost = False
        self._address, self._token, self._e_tag = address / FILE, token, e_tag
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="renew claim", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises LockedError if another process has taken the claim over, because renewals did not get through."""
        if self.lost:
            folder = str(self._address).removesuffix(f"/{FILE}")
            raise LockedError(f"another process took over {folder}, while this one could not reach it")

    def release(self) -> None:
        """Ends the claim, unless it is another's by now."""
        self._ended.set()
        self._thread.join()
        bucket = bucket_of(self._address)
        with suppress(RemoteError):
            if not self.lost and _parsed(bucket.read(self._address.key)[0]).get("token") == self._token:
                bucket.delete([self._address.key])

    def _renew(self) -> None:
        bucket = bucket_of(self._address)
        while not self._ended.wait(LEASE_SECONDS / 3):
            with suppress(RemoteError):  # it is tried again; if it lapses meanwhile, another process may take over
                e_tag = bucket.put_if(self._address.key, _content(self._token), self._e_tag)
                self.lost, self._e_tag = e_tag is None, e_tag or self._e_tag
            if self.lost:
                return


@contextmanager
def claimed(address: Address, waiting: Callable[[str], None] | None = None) -> Iterator[Claim]:
    """Holds the claim to write a folder; the caller holds the lock of its mirror.

    Args:
        address: of the folder.
        waiting: receives a sentence if another process holds it, which is then waited for. Without it, that is an
            error, unless the claim lapses.

    Raises:
        LockedError: if another process holds it, and renews it.
    """
    token, bucket = str(uuid.uuid4()), bucket_of(address)
    e_tag = bucket.put_if((address / FILE).key, _content(token), None)
    if e_tag is None:
        e_tag = _take_over(bucket, address, token, waiting)
    claim = Claim(address, token, e_tag)
    try:
        yield claim
    finally:
        claim.release()


def _take_over(bucket: Bucket, address: Address, token: str, waiting: Callable[[str], None] | None) -> str:
    """Watches the claim of another process, and takes it over once it is released or has lapsed."""
    key = (address / FILE).key
    seen: str | None = None
    since, said = time.monotonic(), False
    while True:
        try:
            content, e_tag = bucket.read(key)
        except MissingObjectError:
            content, e_tag = b"", None
        if e_tag is None or _is_of_the_dead(content) or (e_tag == seen and time.monotonic() - since > LEASE_SECONDS):
            if ours := bucket.put_if(key, _content(token), e_tag):
                return ours
        elif e_tag != seen:
            message = f"another process is writing {address} ({_owner(content)})"
            if waiting is None and seen is not None:
                raise LockedError(message, hint="wait for it, or choose another --out")
            if waiting is not None and not said:
                waiting(f"waiting: {message}")
            seen, since, said = e_tag, time.monotonic(), True
        time.sleep(LEASE_SECONDS / 60)


def _content(token: str) -> bytes:
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "mirrors": _mirrors_id()}
    at = datetime.now().astimezone().isoformat(sep=" ", timespec="microseconds")
    return (json.dumps({"token": token, **owner, "at": at}) + "\n").encode()


def _mirrors_id() -> str:
    """Returns a random name of this machine's mirrors, which they keep."""
    path = mirrors() / "id"
    with suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(str(uuid.uuid4()))
    return path.read_text()


def _is_of_the_dead(content: bytes) -> bool:
    """Returns whether a claim was made with the lock of the mirror, which this process holds now."""
    return _parsed(content).get("mirrors") == _mirrors_id()


def _owner(content: bytes) -> str:
    claim = _parsed(content)
    return f"pid {claim.get('pid')} on {claim.get('host')}, at {claim.get('at')}"


def _parsed(content: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        claim = json.loads(content)
        if isinstance(claim, dict):
            return claim
    return {}
