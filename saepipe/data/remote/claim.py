"""Claims: only one process at a time writes a folder of a bucket, which has no locks.

A claim is an object that is put only if there is none. It holds a token, by which a process knows its own claim though
the answer to its request was lost. Its process renews it; a claim that stays the same for `LEASE_SECONDS` is of a
process that is gone, and is taken over, on condition that it is still the same (`claiming`).
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from datetime import datetime
from typing import Any

from saepipe.data.bucket_address import Address, mirrors
from saepipe.data.errors import AGAIN, LockedError, RemoteError
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.remote.stored_objects import Version

FILE = "log/claim"

LEASE_SECONDS = 60.0
"""Time without renewal after which a claim lapses; a claim is renewed three times as often."""

Owner = dict[str, Any]
"""Token, host, process and time of a claim, and the mirrors whose lock its process has."""


class Claim:
    """This process's claim to write a folder; it is held once it was `put`, and kept until it is released."""

    def __init__(self, address: Address) -> None:
        self.bucket, self.key, self.lease = bucket_of(address), (address / FILE).key, LEASE_SECONDS
        self.token, self._address = str(uuid.uuid4()), address
        process = {"host": socket.gethostname(), "pid": os.getpid(), "mirrors": mirrors_id()}
        self._owner: Owner = {"token": self.token, **process}
        self._version: Version | None = None
        self._renewed, self._lost = 0.0, False
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="renew claim", daemon=True)

    def put(self, version: Version | None) -> bool:
        """Puts the claim if there is none, or if the one there still has this version; returns whether it was put."""
        began = time.monotonic()  # the server's time of the claim is later, so others see it lapse later, too
        new = self.bucket.put_if(self.key, self._content(), version)
        if new is not None:
            self._version, self._renewed = new, began
        return new is not None

    def keep(self) -> None:
        """Starts to renew the claim, which was put."""
        self._thread.start()

    def check(self) -> None:
        """Raises LockedError if another process has taken the claim over, because renewals did not get through."""
        if time.monotonic() - self._renewed > self.lease:
            self._renew()
        if self._lost:
            raise LockedError(
                f"another process took over {self._address}, while this one could not reach it", hint=AGAIN
            )

    def release(self) -> None:
        """Ends the claim, unless it is another's by now."""
        self._ended.set()
        self._thread.join()
        with suppress(RemoteError):  # it lapses by itself
            if not self._lost and owner_of(self.bucket.read(self.key).content).get("token") == self.token:
                self.bucket.delete([self.key])

    def _keep(self) -> None:
        while not self._lost and not self._ended.wait(self.lease / 3):
            with suppress(RemoteError):  # it is tried again; if the claim lapses meanwhile, another may take it over
                self._renew()

    def _renew(self) -> None:
        with self._lock:
            self._lost = not self.put(self._version)

    def _content(self) -> bytes:
        at = datetime.now().astimezone().isoformat(sep=" ", timespec="microseconds")
        return (json.dumps({**self._owner, "at": at}) + "\n").encode()


def owner_of(content: bytes) -> Owner:
    """Returns the owner that the content of a claim names; nothing if it names none."""
    with suppress(ValueError):
        owner = json.loads(content)
        if isinstance(owner, dict):
            return owner
    return {}


def mirrors_id() -> str:
    """Returns a random name of this machine's mirrors, which they keep."""
    path = mirrors() / "id"
    with suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(str(uuid.uuid4()))
    return path.read_text()
