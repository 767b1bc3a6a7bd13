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
from saepipe.data.errors import AGAIN, LockedError, RemoteError
from saepipe.data.remote.bucket import Bucket, bucket_of
from saepipe.data.remote.request_failures import MissingObjectError

FILE = "log/claim"

LEASE_SECONDS = 60.0
"""Time without renewal after which a claim lapses; a claim is renewed three times as often."""


Owner = dict[str, Any]
"""Token, host and process of a claim, and the mirrors whose lock it has."""


class Claim:
    """A claim that this process holds."""

    def __init__(self, address: Address, owner: Owner, e_tag: str) -> None:
        self._address, self._owner, self._e_tag = address / FILE, owner, e_tag
        self._lost, self._renewed = False, time.monotonic()
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="renew claim", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises LockedError if another process has taken the claim over, because renewals did not get through."""
        if time.monotonic() - self._renewed > LEASE_SECONDS:
            self._renew()
        if self._lost:
            folder = str(self._address).removesuffix(f"/{FILE}")
            raise LockedError(f"another process took over {folder}, while this one could not reach it", hint=AGAIN)

    def release(self) -> None:
        """Ends the claim, unless it is another's by now."""
        self._ended.set()
        self._thread.join()
        bucket, key = bucket_of(self._address), self._address.key
        with suppress(RemoteError):  # it lapses by itself
            if not self._lost and _parsed(bucket.read(key)[0]).get("token") == self._owner["token"]:
                bucket.delete([key])

    def _keep(self) -> None:
        while not self._lost and not self._ended.wait(LEASE_SECONDS / 3):
            with suppress(RemoteError):  # it is tried again; if the claim lapses meanwhile, another may take it over
                self._renew()

    def _renew(self) -> None:
        with self._lock:
            e_tag = bucket_of(self._address).put_if(self._address.key, _content(self._owner), self._e_tag)
            self._lost, self._e_tag, self._renewed = e_tag is None, e_tag or self._e_tag, time.monotonic()


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
    bucket = bucket_of(address)
    owner = {"token": str(uuid.uuid4()), "host": socket.gethostname(), "pid": os.getpid(), "mirrors": _mirrors_id()}
    e_tag = bucket.put_if((address / FILE).key, _content(owner), None)
    if e_tag is None:
        e_tag = _take_over(bucket, address, owner, waiting)
    claim = Claim(address, owner, e_tag)
    try:
        yield claim
    finally:
        claim.release()


def _take_over(bucket: Bucket, address: Address, owner: Owner, waiting: Callable[[str], None] | None) -> str:
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
            if ours := bucket.put_if(key, _content(owner), e_tag):
                return ours
        elif e_tag != seen:
            message = f"another process is writing {address} ({_named(content)})"
            if waiting is None and seen is not None:
                raise LockedError(message, hint="wait for it, or choose another --out")
            if waiting is not None and not said:
                waiting(f"waiting: {message}")
            seen, since, said = e_tag, time.monotonic(), True
        time.sleep(LEASE_SECONDS / 60)


def _content(owner: Owner) -> bytes:
    at = datetime.now().astimezone().isoformat(sep=" ", timespec="microseconds")
    return (json.dumps({**owner, "at": at}) + "\n").encode()


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


def _named(content: bytes) -> str:
    claim = _parsed(content)
    return f"pid {claim.get('pid')} on {claim.get('host')}, at {claim.get('at')}"


def _parsed(content: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        claim = json.loads(content)
        if isinstance(claim, dict):
            return claim
    return {}
