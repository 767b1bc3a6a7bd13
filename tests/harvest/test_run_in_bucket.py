"""Harvests into a bucket: the same bytes as in a folder, whatever happens on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.faulty_proxy import every_twentieth
from helpers.interrupted_harvests import Crash, changed, contents, crash_after
from helpers.object_storage import ObjectStorage
from saepipe.data.bucket_address import mirrors
from saepipe.data.errors import ConfigError
from saepipe.data.remote import claim
from saepipe.data.terminal.progress import Silent
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.plan import plan
from saepipe.harvest.run import harvest


def stored(storage: ObjectStorage) -> dict[str, bytes]:
    """What the bucket holds of the cache, but for logs."""
    return {name: data for name, data in storage.contents("cache").items() if not name.startswith("log/")}


def test_a_bucket_holds_the_bytes_of_a_folder_and_the_disk_a_bounded_part(
    object_storage: ObjectStorage, toy_cache: Path, toy_config: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAEPIPE_SHARDS_GB", "0.0005")
    planned = plan(toy_config, object_storage.at("cache"))
    assert "requests that write" in planned.page()["bucket"]
    object_storage.proxy.requests.clear()
    cache = harvest(toy_config, object_storage.at("cache"))
    writes = [request for request in object_storage.proxy.requests if request.method in ("PUT", "POST", "DELETE")]
    assert planned.requests == pytest.approx(len(writes), rel=0.15)
    assert stored(object_storage) == contents(toy_cache)
    assert cache.damage() == []
    shards = mirrors().parent / "shards"
    assert 0 < sum(path.stat().st_size for path in shards.glob("*/*")) <= 500_000 < cache.activation_bytes
    assert sum(path.stat().st_size for path in cache.path.rglob("*") if path.is_file()) < 200_000
    object_storage.proxy.requests.clear()
    assert harvest(toy_config, object_storage.at("cache")).fingerprint == cache.fingerprint
    assert {request.path.rpartition("/")[2] for request in object_storage.proxy.requests if request.num_sent} <= {
        "claim",
        f"{object_storage.address.bucket}?delete",
    }, "nothing is sent again"
    with pytest.raises(ConfigError, match="a cache in a bucket cannot be extended"):
        harvest(changed(toy_config, num_tokens=12_100), object_storage.at("cache"))
    assert stored(object_storage) == contents(toy_cache)


def test_faults_change_no_byte(object_storage: ObjectStorage, toy_cache: Path, toy_config: HarvestConfig) -> None:
    object_storage.proxy.fault = every_twentieth()
    harvest(toy_config, object_storage.at("cache"))
    object_storage.proxy.fault = lambda method, path: None
    assert object_storage.proxy.num_faults >= 5
    assert stored(object_storage) == contents(toy_cache)


def test_another_machine_goes_on_after_a_crash(
    object_storage: ObjectStorage, toy_cache: Path, toy_config: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(claim.Claim, "release", lambda self: self._ended.set())  # a dead process releases nothing
        crash_after(patch, 5)
        with pytest.raises(Crash):
            harvest(changed(toy_config, encoders=1), object_storage.at("cache"))
    with pytest.raises(KeyError):
        object_storage.contents("cache")["COMMITTED"]
    object_storage.other_machine()
    monkeypatch.setattr(claim, "LEASE_SECONDS", 0.5)
    progress = Silent()
    harvest(changed(toy_config, encoders=1), object_storage.at("cache"), progress=progress)
    assert "train: 4,096 of 12,000 tokens are stored already" in progress.said
    assert stored(object_storage).keys() == contents(toy_cache).keys()
    changing = {"zarr.json", "manifest.jsonl", "COMMITTED"}  # the number of encoders
    ours, theirs = stored(object_storage), contents(toy_cache)
    assert [name for name in theirs.keys() - changing if ours[name] != theirs[name]] == []
