"""Claims that this process holds on a folder of a bucket: renewed, lost and released."""

from __future__ import annotations

import time

import pytest

from helpers.object_storage import ObjectStorage
from saepipe.data.bucket_address import Address
from saepipe.data.errors import LockedError
from saepipe.data.remote import claim
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.remote.claiming import claimed

KEY = "runs/log/claim"


@pytest.fixture
def runs(every_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> Address:
    monkeypatch.setattr(claim, "LEASE_SECONDS", 0.6)
    return every_storage.address / "runs"


def test_a_claim_is_there_while_it_is_held_and_is_renewed(runs: Address) -> None:
    objects = bucket_of(runs)
    with claimed(runs) as held:
        first = objects.read(KEY)
        assert list(objects.list("runs")) == [KEY]
        time.sleep(1.5 * claim.LEASE_SECONDS / 3)
        held.check()
        second = objects.read(KEY)
        assert first.version != second.version
        assert claim.owner_of(first.content)["token"] == claim.owner_of(second.content)["token"] == held.token
    assert objects.list("runs") == {}
    with claimed(runs):
        pass


def test_a_claim_takes_one_request_and_its_release_two(object_storage: ObjectStorage) -> None:
    with claimed(object_storage.address / "runs"):
        assert len(object_storage.proxy.requests) == 1
    assert len(object_storage.proxy.requests) == 3


def test_a_claim_whose_answer_was_lost_is_held(runs: Address, every_storage: ObjectStorage) -> None:
    every_storage.proxy.once("lost", "PUT", "claim")
    with claimed(runs) as held:
        held.check()
    assert every_storage.proxy.num_faults == 1


def test_a_process_notices_that_its_claim_was_taken_over(runs: Address) -> None:
    with claimed(runs) as held:
        theirs = b'{"token": "theirs"}'
        bucket_of(runs).put(KEY, theirs)
        time.sleep(1.5 * claim.LEASE_SECONDS / 3)
        with pytest.raises(LockedError, match=f"another process took over {runs}"):
            held.check()
    assert bucket_of(runs).read(KEY).content == theirs


def test_a_process_notices_that_its_claim_was_taken_over_and_released(runs: Address) -> None:
    with claimed(runs) as held:
        bucket_of(runs).delete([KEY])
        time.sleep(1.5 * claim.LEASE_SECONDS / 3)
        with pytest.raises(LockedError, match=f"another process took over {runs}"):
            held.check()
    assert bucket_of(runs).list("runs") == {}


def test_a_process_that_slept_looks_before_it_goes_on(runs: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "LEASE_SECONDS", 1e6)
    with claimed(runs) as held:
        bucket_of(runs).put(KEY, b'{"token": "theirs"}')
        held.check()
        monkeypatch.setattr(held, "_renewed", time.monotonic() - 2e6)
        with pytest.raises(LockedError, match=f"another process took over {runs}"):
            held.check()
