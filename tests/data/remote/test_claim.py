"""Claims on a folder of a bucket, by processes of one machine and of two."""

from __future__ import annotations

import json
import time

import pytest

from helpers.object_storage import ObjectStorage
from saepipe.data.bucket_address import Address
from saepipe.data.errors import LockedError
from saepipe.data.remote import claim
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.remote.claim import claimed

KEY = "runs/log/claim"


def of_the_dead() -> bytes:
    """A claim that a process of this machine made and left."""
    return json.dumps({"token": "dead", "host": "here", "pid": 1, "mirrors": claim._mirrors_id()}).encode()


@pytest.fixture
def runs(object_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> Address:
    monkeypatch.setattr(claim, "LEASE_SECONDS", 0.6)
    return object_storage.address / "runs"


def test_a_claim_is_there_while_it_is_held(runs: Address) -> None:
    with claimed(runs) as held:
        assert list(bucket_of(runs).list("runs")) == [KEY]
        held.check()
    assert bucket_of(runs).list("runs") == {}
    with claimed(runs):
        pass


def test_two_machines_cannot_hold_one(runs: Address, object_storage: ObjectStorage) -> None:
    with claimed(runs) as held:
        object_storage.other_machine()
        with pytest.raises(LockedError, match=rf"another process is writing {runs} \(pid \d+ on"), claimed(runs):
            pass
        held.check()
        assert list(bucket_of(runs).list("runs")) == [KEY], "the other one has not removed it"


def test_a_claim_that_is_released_is_waited_for(runs: Address, object_storage: ObjectStorage) -> None:
    sentences: list[str] = []
    with claimed(runs) as held:
        object_storage.other_machine()

        def waiting(sentence: str) -> None:
            sentences.append(sentence)
            held.release()

        with claimed(runs, waiting) as other:
            other.check()
    assert len(sentences) == 1
    assert sentences[0].startswith(f"waiting: another process is writing {runs}")


def test_the_claim_of_a_dead_process_lapses(runs: Address, object_storage: ObjectStorage) -> None:
    bucket_of(runs).put(KEY, of_the_dead())
    object_storage.other_machine()
    start = time.monotonic()
    with claimed(runs) as held:
        assert time.monotonic() - start > claim.LEASE_SECONDS
        held.check()


def test_a_process_that_died_on_this_machine_is_not_waited_for(runs: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "LEASE_SECONDS", 1e6)
    bucket_of(runs).put(KEY, of_the_dead())
    with claimed(runs) as held:
        held.check()


def test_a_claim_whose_answer_was_lost_is_held(runs: Address, object_storage: ObjectStorage) -> None:
    object_storage.proxy.once("lost", "PUT", KEY)
    with claimed(runs) as held:
        held.check()
    assert object_storage.proxy.num_faults == 1


def test_a_process_notices_that_its_claim_was_taken_over(runs: Address) -> None:
    with claimed(runs) as held:
        theirs = b'{"token": "theirs"}'
        bucket_of(runs).put(KEY, theirs)
        time.sleep(1.5 * claim.LEASE_SECONDS / 3)
        with pytest.raises(LockedError, match=f"another process took over {runs}"):
            held.check()
    assert bucket_of(runs).read(KEY)[0] == theirs


def test_a_process_that_slept_looks_before_it_goes_on(runs: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "LEASE_SECONDS", 1e6)
    with claimed(runs) as held:
        bucket_of(runs).put(KEY, b'{"token": "theirs"}')
        held.check()
        monkeypatch.setattr(held, "_renewed", time.monotonic() - 2e6)
        with pytest.raises(LockedError, match=f"another process took over {runs}"):
            held.check()
