"""Options of the HTTP client."""

from __future__ import annotations

import pytest

from helpers.object_storage import ObjectStorage
from saepipe.data.remote import client_options as module
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.remote.client_options import client_options


def test_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {"AWS_TIMEOUT": "5s", "AWS_PROXY_URL": "http://proxy", "AZURE_TIMEOUT": "6s"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    assert client_options("s3") == {"read_timeout": "60s", "timeout": "5s", "proxy_url": "http://proxy"}
    assert client_options("gs") == {"read_timeout": "60s", "timeout": "1day"}


def test_an_answer_may_take_long_but_not_be_silent(
    object_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that takes 0.8 s comes with one request; an answer that does not begin within 0.3 s is asked for again."""
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.3)
    objects, proxy = bucket_of(object_storage.address), object_storage.proxy
    objects.put("a", content := bytes(range(256)) * 64)
    proxy.once("slow", "GET", "a")
    assert objects.read("a").content == content
    assert proxy.count("GET", "/a") == 1
    proxy.once("held", "GET", "a")
    assert objects.read("a").content == content
    proxy.go.set()
    assert proxy.num_faults == 2
