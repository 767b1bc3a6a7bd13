"""Harvests into a bucket: the same bytes as in a folder, whatever happens on the way."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest

from helpers.faulty_proxy import every_twentieth
from helpers.interrupted_harvests import Crash, changed, contents, crash_after
from helpers.object_storage import ObjectStorage
from saepipe.data.bucket_address import mirrors
from saepipe.data.cache.ancestors import FOLDER, damaged_ancestors, open_length
from saepipe.data.cache.repair import repair
from saepipe.data.errors import ConfigError, LockedError
from saepipe.data.folders import artifact
from saepipe.data.remote import claim
from saepipe.data.remote.bucket import Bucket, bucket_of
from saepipe.data.remote.claiming import claimed
from saepipe.data.remote.places import folder_of, read_from
from saepipe.data.terminal.progress import Silent
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.plan import plan
from saepipe.harvest.run import harvest


def stored(storage: ObjectStorage) -> dict[str, bytes]:
    """What the bucket holds of the cache, but for logs."""
    contents = storage.contents("cache")
    return {name: data for name, data in contents.items() if not name.startswith(("log/", f"{FOLDER}/"))}


def test_a_bucket_holds_the_bytes_of_a_folder_and_the_disk_a_bounded_part(
    every_storage: ObjectStorage, toy_cache: Path, toy_config: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAEPIPE_SHARDS_GB", "0.0005")
    planned = plan(toy_config, every_storage.at("cache"))
    assert "requests that write" in planned.page()["bucket"]
    every_storage.proxy.requests.clear()
    cache = harvest(toy_config, every_storage.at("cache"))
    writes = [request for request in every_storage.proxy.requests if request.method in ("PUT", "POST", "DELETE")]
    assert planned.requests == pytest.approx(len(writes), rel=0.15)
    assert stored(every_storage) == contents(toy_cache)
    assert cache.damage() == []
    shards = mirrors().parent / "shards"
    assert 0 < sum(path.stat().st_size for path in shards.glob("*/*")) <= 500_000 < cache.activation_bytes
    assert sum(path.stat().st_size for path in cache.path.rglob("*") if path.is_file()) < 200_000
    every_storage.proxy.requests.clear()
    assert harvest(toy_config, every_storage.at("cache")).fingerprint == cache.fingerprint
    sent = {unquote(request.path).rpartition("/")[2] for request in every_storage.proxy.requests if request.num_sent}
    assert {name for name in sent if "?" not in name} == {"claim"}, "nothing is sent again"


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


def test_a_cache_that_another_machine_writes_is_refused_after_a_look_that_is_told(
    object_storage: ObjectStorage, toy_config: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "LEASE_SECONDS", 0.6)
    progress = Silent()
    with claimed(cache := object_storage.address / "cache"):
        object_storage.other_machine()
        with pytest.raises(LockedError, match=f"another process is writing {cache}"):
            harvest(toy_config, str(cache), progress=progress)
    assert sum("if it has died, its claim lapses in" in sentence for sentence in progress.said) == 1


def test_a_cache_is_extended_and_keeps_its_earlier_length(
    object_storage: ObjectStorage, toy_cache: Path, toy_config: HarvestConfig
) -> None:
    short = changed(toy_config, num_tokens=5000, heldout_tokens=1000)
    before = harvest(short, out := object_storage.at("cache"))
    earlier = stored(object_storage)
    object_storage.other_machine()
    harvest(toy_config, out)
    assert stored(object_storage) == contents(toy_cache)
    kept = f"cache/{FOLDER}/{before.fingerprint[:16]}"
    assert object_storage.contents(kept) == earlier
    object_storage.other_machine()
    opened = open_length(folder_of(out), before.fingerprint)
    assert opened.num_tokens == 5000
    assert opened.damage() == []
    assert list(damaged_ancestors(folder_of(out))) == []
    objects, shard = bucket_of(object_storage.address), f"acts/{toy_config.hooks[0]}/c/0/0"
    objects.put(f"{kept}/{shard}", flipped(earlier[shard]))
    assert list(damaged_ancestors(folder_of(out))) == [
        f"{object_storage.address}/{kept}/{shard} has other content than the manifest lists (xxh3 differs)"
    ]
    assert repair(folder_of(out))["next"] is None
    assert object_storage.contents(kept) == earlier, "copied again from the cache, which has the same shard"


def test_an_extension_that_is_cut_off_is_gone_on_with(
    object_storage: ObjectStorage, toy_cache: Path, toy_config: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first attempt ends while the earlier length is copied, a second before the first new pool."""
    short = changed(toy_config, num_tokens=5000, heldout_tokens=1000)
    before = harvest(short, out := object_storage.at("cache"))
    earlier = stored(object_storage)
    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "copy", lambda *_: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            harvest(toy_config, out)
    assert stored(object_storage) == earlier
    object_storage.other_machine()
    assert sum(path.stat().st_size for path in read_from(out).rglob("c/**/*") if path.is_file()) < 200_000, "no shards"
    with monkeypatch.context() as patch:
        crash_after(patch, 1)
        with pytest.raises(Crash):
            harvest(changed(toy_config, encoders=1), out)
    object_storage.other_machine()
    harvest(toy_config, out)
    assert stored(object_storage).keys() == contents(toy_cache).keys()
    assert open_length(folder_of(out), before.fingerprint).num_tokens == 5000


def test_a_damaged_cache_is_repaired(object_storage: ObjectStorage, toy_cache: Path, toy_config: HarvestConfig) -> None:
    """Damaged are a shard of the middle pool, which must be made again, and metadata."""
    harvest(toy_config, out := object_storage.at("cache"))
    objects, sound = bucket_of(object_storage.address), stored(object_storage)
    names = [f"acts/{toy_config.hooks[1]}/c/3/0", f"stats/{toy_config.hooks[0]}/mean/c/0"]
    for name in names:
        objects.put(f"cache/{name}", flipped(sound[name]))
    report = repair(Path(out))
    assert [sentence.partition(" has ")[0] for sentence in report["damaged"]] == [f"{out}/{name}" for name in names]
    assert [(pool["split"], pool["pool"]) for pool in report["pools"]] == [("train", 1)]
    assert not {*names, "COMMITTED"} & stored(object_storage).keys()
    assert harvest(HarvestConfig.load(Path(report["config"])), out).fingerprint == report["fingerprint"]
    assert stored(object_storage) == contents(toy_cache)
    assert repair(Path(out))["next"] is None
    with pytest.raises(ConfigError, match="there is no cache at"):
        repair(Path(object_storage.at("none")))


def test_a_crash_just_before_the_seal_costs_no_pool(
    object_storage: ObjectStorage, toy_cache: Path, toy_config: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lists of the pools are gone by then, and the manifest has them all."""

    def crash(_: Path) -> str:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(artifact, "commit", crash)
        with pytest.raises(Crash):
            harvest(toy_config, out := object_storage.at("cache"))
    assert not [name for name in stored(object_storage) if name.startswith("ranks/")]
    object_storage.other_machine()
    crash_after(monkeypatch, 0)
    harvest(toy_config, out)
    assert stored(object_storage) == contents(toy_cache)


def test_an_unfinished_cache_is_repaired(
    object_storage: ObjectStorage, toy_cache: Path, toy_config: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pools are listed one by one, not in the manifest yet; the first is damaged."""
    with monkeypatch.context() as patch:
        crash_after(patch, 7)
        with pytest.raises(Crash):
            harvest(changed(toy_config, encoders=1), out := object_storage.at("cache"))
    before = stored(object_storage)
    lists = {name for name in before if name.startswith("ranks/pools/")}
    assert before["manifest.jsonl"] == b""
    shard = f"acts/{toy_config.hooks[0]}/c/1/0"
    bucket_of(object_storage.address).put(f"cache/{shard}", flipped(before[shard]))
    object_storage.other_machine()
    report = repair(Path(out))
    assert [sentence.partition(" has ")[0] for sentence in report["damaged"]] == [f"{out}/{shard}"]
    assert [(pool["split"], pool["pool"]) for pool in report["pools"]] == [("train", 0)]
    kept = [line for line in artifact.read_manifest(folder_of(out)) if line["kind"] == "pool"]
    assert {f"ranks/pools/{line['split']}-{line['pool']:08d}.jsonl" for line in kept} == lists - {
        "ranks/pools/train-00000000.jsonl"
    }
    assert not [name for name in stored(object_storage) if name.startswith("ranks/")]
    harvest(toy_config, out)
    assert stored(object_storage) == contents(toy_cache)


def flipped(content: bytes) -> bytes:
    """Returns the content with one bit flipped."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]
