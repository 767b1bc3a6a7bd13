"""Getting a claim: where another process has one, it is waited for, or taken over once it has lapsed.

Only the server's clock tells how old a claim is; those of the machines may differ.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from saepipe.data.bucket_address import Address
from saepipe.data.errors import LockedError, RemoteError
from saepipe.data.remote.claim import Claim, mirrors_id, owner_of
from saepipe.data.remote.request_failures import MissingObjectError
from saepipe.data.remote.stored_objects import Stored, Version

RESOLUTION_SECONDS = 1.0
"""Resolution of the times that servers give objects."""

Say = Callable[[str], None]


@contextmanager
def claimed(address: Address, waiting: Say | None = None, *, say: Say | None = None) -> Iterator[Claim]:
    """Holds the claim to write a folder; the caller holds the lock of its mirror.

    Args:
        address: of the folder.
        waiting: receives a sentence if another process holds it, which is then waited for. Without it, that is an
            error, unless the claim lapses.
        say: receives a sentence if it takes time to see whether a claim lapses; by default `waiting`.

    Raises:
        LockedError: if another process holds it, and renews it.
    """
    claim = Claim(address)
    if not claim.put(None):
        _take_over(claim, address, waiting, say)
    claim.keep()
    try:
        yield claim
    finally:
        claim.release()


def _take_over(claim: Claim, address: Address, waiting: Say | None, say: Say | None) -> None:
    """Watches the claim of another process, and takes it over once it is released or has lapsed."""
    watched: Version | None = None
    lapses, tell = math.inf, say or waiting
    while True:
        theirs = _read(claim)
        if theirs and theirs.version != watched:
            writing = f"another process is writing {address} ({_named(theirs.content)})"
            if watched and waiting is None:
                raise LockedError(writing, hint="wait for it, or choose another --out")
            left = _seconds_left(claim, theirs, is_renewed=watched is not None)
            if left > 0 and tell:
                tell(f"waiting: {writing}; if it has died, its claim lapses in {left:.0f} s")
                tell = None
            watched, lapses = theirs.version, time.monotonic() + left
        is_free = theirs is None or time.monotonic() >= lapses
        if is_free and claim.put(theirs.version if theirs else None):
            return
        time.sleep(claim.lease / 60)


def _read(claim: Claim) -> Stored | None:
    try:
        return claim.bucket.read(claim.key)
    except MissingObjectError:
        return None


def _seconds_left(claim: Claim, theirs: Stored, *, is_renewed: bool) -> float:
    """Returns the time after which a claim has lapsed, unless it is renewed until then."""
    if owner_of(theirs.content).get("mirrors") == mirrors_id():
        return 0.0  # it was made with the lock of the mirror, which this process holds now
    return claim.lease - (0.0 if is_renewed else _age(claim, theirs))


def _age(claim: Claim, theirs: Stored) -> float:
    """Returns the least time for which a claim has been the same: from then to an object that is put now."""
    now = f"{claim.key}-{claim.token}"
    claim.bucket.put(now, b"")
    try:
        put = claim.bucket.read(now).modified
    finally:
        with suppress(RemoteError):  # it hinders nobody
            claim.bucket.delete([now])
    return (put - theirs.modified).total_seconds() - RESOLUTION_SECONDS


def _named(content: bytes) -> str:
    owner = owner_of(content)
    return f"pid {owner.get('pid')} on {owner.get('host')}, at {owner.get('at')}"
