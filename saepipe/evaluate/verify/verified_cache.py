"""Verification of a cache, its ancestors and the kept work beside it; optionally also of its text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saepipe.data.cache.ancestors import damaged_ancestors
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.repair import repair
from saepipe.data.folders.artifact import open_committed
from saepipe.data.remote.damaged_files import damaged_files
from saepipe.data.remote.places import folder_of, refresh_as_is
from saepipe.evaluate.model.kept_work import beside
from saepipe.evaluate.verify.run import verify
from saepipe.harvest.text_check import check_text


@dataclass(frozen=True)
class VerifiedCache:
    """Outcome of a verification."""

    facts: dict[str, Any]
    """Number of files and of parts of kept work, the damage and, if it was asked for, the agreement with the text."""
    damaged: list[str]
    """One sentence per damaged file."""


def verify_cache(
    cache: Path, *, against_text: bool = False, trust_remote_code: bool = False, say: Callable[[str], None]
) -> VerifiedCache:
    """Compares every file of a cache, and of the kept work beside it, with its manifest.

    Args:
        cache: its folder or bucket address.
        against_text: also tokenise a sample of the text again, and compare it, unless something is damaged.
        trust_remote_code: run a tokenizer's own code for that.
        say: called with sentences about the progress.

    Raises:
        ConfigError: if there is no cache, or if the text is another one than the cache was made of.
    """
    refresh_as_is(cache := folder_of(cache))
    kept_work = verify(beside(cache), may_be_empty=True)
    _, lines = open_committed(cache, "cache")
    damaged = [*damaged_files(cache, lines), *damaged_ancestors(cache), *kept_work.damaged]
    facts: dict[str, Any] = {
        "files": sum(len(line["files"]) for line in lines),
        "kept_work": kept_work.checked.get("kept work", 0),
        "damaged": damaged,
    }
    if against_text and not damaged:
        facts |= check_text(Cache.open(cache), trust_remote_code=trust_remote_code, say=say)
    return VerifiedCache(facts, damaged)


def repair_cache(cache: Path) -> dict[str, Any]:
    """Drops the damaged parts of a cache and of the kept work beside it, so that they are made again.

    Returns:
        The facts of `saepipe.data.cache.repair.repair`, and the damaged and the cleared parts of the kept work.

    Raises:
        ConfigError: if there is no cache.
        LockedError: if another process is writing.
    """
    refresh_as_is(cache := folder_of(cache))
    kept_work = verify(beside(cache), repair=True, may_be_empty=True)
    return repair(cache) | {"kept_work": kept_work.damaged, "cleared": kept_work.cleared}
