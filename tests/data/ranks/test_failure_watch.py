"""A rank that waits ends if another has left with an error; the store is a real one, served by this process."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from saepipe.data.errors import MachineError
from saepipe.data.ranks import failure_watch, group
from saepipe.data.ranks.failure_watch import FailureWatch
from saepipe.data.ranks.group import LostRankError, open_store
from saepipe.data.ranks.launch import Ranks


def test_a_failure_is_seen_at_the_next_look_that_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setattr(failure_watch, "GRACE_SECONDS", 0)
    first, second = Ranks(0, 2, 0, 1), Ranks(1, 2, 0, 1)
    with ThreadPoolExecutor(2) as threads:
        _, store = threads.map(lambda ranks: open_store(ranks, timedelta(seconds=20)), (first, second))
    watch = FailureWatch(first)
    monkeypatch.setattr(failure_watch, "SECONDS", 0)
    due = FailureWatch(first)
    due.look()
    store.set(f"group/{group._GROUPS[0]}/failed/1", "the disk is full")
    watch.look()  # too early
    with pytest.raises(LostRankError, match="rank 1 has failed: the disk is full"):
        due.look()


def test_a_single_rank_looks_at_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setattr(failure_watch, "SECONDS", 0)
    FailureWatch(Ranks()).look()


def test_without_the_store_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no agent serves the store, it ends with the first rank."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setattr(failure_watch, "SECONDS", 0)
    ranks = Ranks(1, 2, 0, 1)
    FailureWatch(ranks).look()
    assert group.not_waiting(ranks, seconds=0.1) == []
    with pytest.raises(MachineError, match="rank 1 of 2 did not reach the others"):
        open_store(ranks, timedelta(seconds=0.1))
