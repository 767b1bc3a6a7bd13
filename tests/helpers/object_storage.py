"""A bucket of a real S3 server, moto, behind a proxy with faults, as fixtures.

moto lives in an environment of its own, because it does not resolve quickly beside the versions of this project.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers.faulty_proxy import FaultyProxy, faulty_proxy
from helpers.repository import ROOT
from saepipe.data.bucket_address import Address
from saepipe.data.remote import bucket, fetchers, mirror, shard_cache

SIGNED = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=y"


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
        return {key.removeprefix(prefix): objects.read(key)[0] for key in objects.list(name)}

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


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """Port of a moto server on loopback."""
    pytest.importorskip("obstore")
    own = ROOT / "build" / "moto" / "bin" / "moto_server"
    command = os.environ.get("SAEPIPE_MOTO") or (own if own.exists() else shutil.which("moto_server"))
    if command is None:
        pytest.skip("no moto_server: make build/moto/bin/moto_server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    log = subprocess.DEVNULL
    server = subprocess.Popen([command, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    try:
        _wait_for(port, server)
        yield port
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def object_storage(s3_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStorage]:
    """A new bucket behind a proxy of its own."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    _create(s3_port, name)
    with faulty_proxy(s3_port) as proxy:
        settings = {"ENDPOINT_URL": proxy.url, "ALLOW_HTTP": "true", "REGION": "us-east-1"}
        for key, value in {**settings, "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y"}.items():
            monkeypatch.setenv(f"AWS_{key}", value)
        storage = ObjectStorage(Address("s3", name, ""), proxy, tmp_path / "machines", monkeypatch)
        storage.other_machine()
        yield storage
        storage.restart()


def _create(port: int, bucket: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("PUT", f"/{bucket}", headers={"Authorization": SIGNED})
    assert connection.getresponse().status == 200
    connection.close()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    pytest.fail("moto_server does not start")
