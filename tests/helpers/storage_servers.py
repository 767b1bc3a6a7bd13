"""Servers on loopback that answer as object storage does: moto (S3), fake-gcs-server (Google Cloud), Azurite (Azure).

Each lives in a folder of its own below `build/`, because none resolves quickly beside the versions of this project.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

import pytest

from helpers.faulty_proxy import direct
from helpers.repository import ROOT
from helpers.xml_over_json import Answer, Ask, Call, xml_over_json

SIGNED = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=y"
ACCOUNT, KEY = "saepipe", base64.b64encode(b"a key of these tests").decode()


@dataclass(frozen=True)
class Server:
    """A kind of server, and how to use it."""

    program: Path
    """below `build/`"""
    arguments: Callable[[int], list[str]]
    create: Callable[[http.client.HTTPConnection, str], None]
    """asks for a new bucket"""
    settings: Callable[[str], dict[str, str]]
    """environment for obstore, by the address of the server"""
    environment: Mapping[str, str] = field(default_factory=dict)
    gateway: Callable[[Call, Ask], Answer] = direct
    """translates requests for it"""

    @contextmanager
    def running(self) -> Iterator[int]:
        """Starts the server, and yields its port; skips the test if it is not installed."""
        own = ROOT / "build" / self.program
        program = own if own.exists() else shutil.which(self.program.name)
        if program is None:
            pytest.skip(f"no {self.program.name}: make build/{self.program}")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        log, environment = subprocess.DEVNULL, {**os.environ, **self.environment}
        process = subprocess.Popen([program, *self.arguments(port)], stdout=log, stderr=log, env=environment)
        try:
            _wait_for(port, process)
            yield port
        finally:
            process.kill()  # Azurite would first wait for idle connections to end
            process.wait()

    def new_bucket(self, port: int, name: str) -> None:
        """Makes an empty bucket."""
        connection = http.client.HTTPConnection("127.0.0.1", port)
        self.create(connection, name)
        assert connection.getresponse().status in (200, 201)
        connection.close()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    pytest.fail(f"{process.args} does not start")


def _create_s3(connection: http.client.HTTPConnection, name: str) -> None:
    connection.request("PUT", f"/{name}", headers={"Authorization": SIGNED})


def _create_gs(connection: http.client.HTTPConnection, name: str) -> None:
    connection.request("POST", "/storage/v1/b", json.dumps({"name": name}), {"Content-Type": "application/json"})


def _create_az(connection: http.client.HTTPConnection, name: str) -> None:
    """Signs the request with the account's key, since only that may make containers."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    listed = "".join(f"{key}:{value}\n" for key, value in headers.items())
    text = "PUT" + "\n" * 12 + f"{listed}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
    connection.request("PUT", f"/{ACCOUNT}/{name}?restype=container", headers=headers)


SERVERS = {
    "s3": Server(
        Path("moto/bin/moto_server"),
        lambda port: ["-H", "127.0.0.1", "-p", str(port)],
        _create_s3,
        lambda url: {
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "y",
        },
    ),
    "gs": Server(
        Path("fake-gcs/bin/fake-gcs-server"),
        lambda port: [
            "-scheme",
            "http",
            "-host",
            "127.0.0.1",
            "-port",
            str(port),
            "-backend",
            "memory",
            "-public-host",
            "127.0.0.1",
        ],
        _create_gs,
        lambda url: {"GOOGLE_BASE_URL": url, "GOOGLE_ALLOW_HTTP": "true", "GOOGLE_BEARER_TOKEN": "x"},
        gateway=xml_over_json,
    ),
    "az": Server(
        Path("azurite/node_modules/.bin/azurite-blob"),
        lambda port: ["--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck", "--silent"],
        _create_az,
        lambda url: {
            "AZURE_STORAGE_ENDPOINT": f"{url}/{ACCOUNT}",
            "AZURE_ALLOW_HTTP": "true",
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        },
        {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"},
    ),
}
