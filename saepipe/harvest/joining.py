"""How ranks that make one cache begin and end together: each then sees what the first has begun, or has sealed.

In a bucket, each machine has a mirror of its own. One of its ranks holds that and brings it up to date; the claim to
write the cache is the first rank's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from saepipe.data.bucket_address import mirrored
from saepipe.data.folders.artifact import COMMITTED
from saepipe.data.ranks.group import meet
from saepipe.data.ranks.launch import Ranks
from saepipe.data.remote import places
from saepipe.data.remote.shared_files import SharedFiles

BEGUN = "begun the cache", 3600.0
"""What ranks wait for, and for how many seconds: the first may read much text again before a pool is missing."""
_FETCHED = "fetched what the bucket holds of the cache", 3600.0


def meet_begun(ranks: Ranks, out: Path) -> None:
    """Lets all ranks go on, once the first, which calls this, has begun the cache."""
    meet(ranks, *BEGUN)
    meet_fetched(ranks, out)


def meet_fetched(ranks: Ranks, out: Path) -> None:
    """Waits until the mirrors of all machines are up to date, if the cache is in a bucket."""
    if mirrored(out):
        meet(ranks, *_FETCHED)


@contextmanager
def joined(ranks: Ranks, out: Path) -> Iterator[Callable[[], None]]:
    """Waits until the first rank has begun the cache, and holds this machine's mirror of it, if it is in a bucket.

    Yields what a rank calls once the cache is sealed, as the first calls `meet_fetched`: it fetches the rest.
    """
    meet(ranks, *BEGUN)
    with places.joined(out) as refresh:

        def fetch() -> None:
            refresh()
            meet_fetched(ranks, out)

        fetch()
        yield fetch


def await_seal(out: Path, look: Callable[[], None]) -> None:
    """Waits until the first rank has sealed the cache; `look` is called meanwhile, and may raise."""
    files, pauses = SharedFiles(out), SharedFiles(out).pauses()
    while files.read(COMMITTED) is None:
        look()
        time.sleep(next(pauses))
