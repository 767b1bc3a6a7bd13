"""A bucket of a real server behind a proxy with faults, as fixtures: of S3, or of every kind of object storage."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from helpers.faulty_proxy import FaultyProxy, faulty_proxy
from helpers.storage_servers import SERVERS
from saepipe.data.bucket_address import Address
from saepipe.data.remote import bucket, fetchers, mirror, shard_cache


@dataclass(frozen=True)
class ObjectStorage:
    """A bucket of a test's own, and the machine that uses it."""

    address: Address
    proxy: FaultyProxy
    folder: Path
    patch: pytest.MonkeyPatch

    def at(self, name: str) -> str:
        """Address of a folder in the bucket."""
        return str(self.address / name)

    def contents(self, name: str = "") -> dict[str, bytes]:
        """Returns the content of each object below a folder, by name."""
        objects, prefix = bucket.bucket_of(self.address), f"{name}/" if name else ""
        return {key.removeprefix(prefix): objects.read(key).content for key in objects.list(name)}

    def other_machine(self) -> None:
        """Goes on as another machine, which has no mirrors and no shards."""
        machine = self.folder / uuid.uuid4().hex[:8]
        self.patch.setenv("SAEPIPE_MIRRORS", str(machine / "mirrors"))
        self.patch.setenv("SAEPIPE_SHARDS", str(machine / "shards"))
        self.restart()

    def restart(self) -> None:
        """Forgets what a process knows."""
        for known in (bucket.bucket_of, mirror.mirror_at, shard_cache.shard_cache, fetchers.fetchers):
            known.cache_clear()


Ports = Callable[[str], int]
"""Port of the server for a scheme, which is started when it is first asked for."""


@pytest.fixture(scope="session")
def storage_ports() -> Iterator[Ports]:
    """Servers on loopback for this process's tests."""
    pytest.importorskip("obstore")
    with ExitStack() as running:
        yield cache(lambda scheme: running.enter_context(SERVERS[scheme].running()))


@pytest.fixture
def object_storage(storage_ports: Ports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStorage]:
    """A new bucket of S3 behind a proxy of its own."""
    with _new_storage("s3", storage_ports("s3"), tmp_path, monkeypatch) as storage:
        yield storage


@pytest.fixture(params=["s3", *(pytest.param(scheme, marks=pytest.mark.clouds) for scheme in ("gs", "az"))])
def every_storage(
    request: pytest.FixtureRequest, storage_ports: Ports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObjectStorage]:
    """The same of each kind of object storage in turn."""
    with _new_storage(request.param, storage_ports(request.param), tmp_path, monkeypatch) as storage:
        yield storage


@contextmanager
def _new_storage(scheme: str, port: int, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[ObjectStorage]:
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    SERVERS[scheme].new_bucket(port, name)
    with faulty_proxy(port, SERVERS[scheme].gateway) as proxy:
        for key, value in SERVERS[scheme].settings(proxy.url).items():
            patch.setenv(key, value)
        storage = ObjectStorage(Address(scheme, name, ""), proxy, folder / "machines", patch)
        storage.other_machine()
        yield storage
        storage.restart()
