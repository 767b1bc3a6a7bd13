"""Claims of processes of one machine and of two: refused, waited for and taken over, by the server's clock."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

import pytest

from helpers.object_storage import ObjectStorage
from saepipe.data.bucket_address import Address
from saepipe.data.errors import LockedError
from saepipe.data.remote import claim
from saepipe.data.remote.bucket import Bucket, bucket_of
from saepipe.data.remote.claiming import claimed
from saepipe.data.remote.stored_objects import Version

KEY = "runs/log/claim"

LAPSE_SECONDS = 2.1
"""Age at which a claim of 0.6 s has lapsed for sure, by times in whole seconds."""


def left(at: str = "2026-01-01 00:00:00+00:00") -> bytes:
    """A claim that a process of this machine made, and left when it died, by its own clock at a time."""
    return json.dumps({"token": "left", "host": "here", "pid": 1, "mirrors": claim.mirrors_id(), "at": at}).encode()


def before_the_next_claim(patch: pytest.MonkeyPatch, action: Callable[[], object]) -> list[object]:
    """Does something between the look at a claim and its taking over, as another process; lists what it returned."""
    put_if, results = Bucket.put_if, list[object]()

    def put_later(bucket: Bucket, key: str, content: bytes, version: Version | None) -> Version | None:
        if version is not None and not results:
            results.append(action())
        return put_if(bucket, key, content, version)

    patch.setattr(Bucket, "put_if", put_later)
    return results


@pytest.fixture
def runs(object_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> Address:
    monkeypatch.setattr(claim, "LEASE_SECONDS", 0.6)
    return object_storage.address / "runs"


def test_two_machines_cannot_hold_one(every_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "LEASE_SECONDS", 0.6)
    runs, said = every_storage.address / "runs", list[str]()
    with claimed(runs) as held:
        every_storage.other_machine()
        refused = rf"another process is writing {runs} \(pid \d+ on"
        with pytest.raises(LockedError, match=refused), claimed(runs, say=said.append):
            pass
        held.check()
        assert list(bucket_of(runs).list("runs")) == [KEY], "the other one has not removed it, and has left nothing"
    assert len(said) == 1
    assert re.search(r"; if it has died, its claim lapses in [12] s$", said[0])


def test_a_claim_that_is_released_is_waited_for(every_storage: ObjectStorage) -> None:
    runs, sentences = every_storage.address / "runs", list[str]()
    with claimed(runs) as held:
        every_storage.other_machine()

        def waiting(sentence: str) -> None:
            sentences.append(sentence)
            held.release()

        with claimed(runs, waiting) as other:
            other.check()
    assert len(sentences) == 1
    assert sentences[0].startswith(f"waiting: another process is writing {runs}")


def test_a_claim_that_is_released_while_it_is_taken_over_is_free(
    runs: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket_of(runs).put(KEY, left())
    taken = before_the_next_claim(monkeypatch, lambda: bucket_of(runs).delete([KEY]))
    with claimed(runs) as held:
        held.check()
    assert taken == [None]


def test_the_claim_of_a_dead_process_lapses(runs: Address, object_storage: ObjectStorage) -> None:
    said = list[str]()
    bucket_of(runs).put(KEY, left("2000-01-01 00:00:00+00:00"))  # by a clock that is wrong
    object_storage.other_machine()
    start = time.monotonic()
    with claimed(runs, say=said.append) as held:
        assert time.monotonic() - start > claim.LEASE_SECONDS
        held.check()
    assert len(said) == 1
    assert said[0].startswith(f"waiting: another process is writing {runs} (pid 1 on here, at 2000-01-01")


def test_a_claim_that_has_lapsed_is_taken_over_at_once_by_one_of_two_processes(
    runs: Address, object_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claims say that they were made in a hundred years, so by the clocks of the machines they are young."""
    objects, others = bucket_of(runs), object_storage.address / "others"
    for key in (KEY, "others/log/claim"):
        objects.put(key, left("2126-01-01 00:00:00+00:00"))
    object_storage.other_machine()
    time.sleep(LAPSE_SECONDS)
    said = list[str]()
    object_storage.proxy.requests.clear()
    with claimed(runs, say=said.append) as held:
        assert (said, object_storage.proxy.count("GET", KEY)) == ([], 3), "not watched"
        held.check()

    theirs = b'{"token": "theirs"}'
    version = bucket_of(runs).read("others/log/claim").version
    put_if = Bucket.put_if
    taken = before_the_next_claim(monkeypatch, lambda: put_if(bucket_of(runs), "others/log/claim", theirs, version))
    with pytest.raises(LockedError, match=f"another process is writing {others}"), claimed(others, say=said.append):
        pass
    assert taken != [None]
    assert said == []
    assert object_storage.contents("others") == {"log/claim": theirs}


def test_a_process_that_died_on_this_machine_is_not_waited_for(runs: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "LEASE_SECONDS", 1e6)
    bucket_of(runs).put(KEY, left())
    with claimed(runs) as held:
        held.check()
