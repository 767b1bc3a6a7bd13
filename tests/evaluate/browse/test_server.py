"""Access control of the server, and notes over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from helpers.runs_to_browse import D_SAE
from saepipe.evaluate.browse.guard import HEADERS, MAX_BODY
from saepipe.evaluate.browse.notes import FILE
from saepipe.evaluate.browse.resources import Resources
from saepipe.evaluate.browse.server import application

PORT, TOKEN = 8123, "t" * 43
HOME = f"http://127.0.0.1:{PORT}"
WRITES = {"origin": HOME, "content-type": "application/json"}


@pytest.fixture(scope="module")
def app(resources: Resources) -> Any:
    return application(resources, TOKEN, PORT)


@pytest.fixture
def stranger(app: Any) -> TestClient:
    return TestClient(app, base_url=HOME)


@pytest.fixture
def client(stranger: TestClient) -> Iterator[TestClient]:
    """A client that has the token."""
    assert stranger.get("/", params={"token": TOKEN}).status_code == 200
    return stranger


@pytest.mark.parametrize(
    "path", ["/", "/browse.js", "/data/runs", "/data/0/latent/1", "/nothing", "/?token=", "/?token=x"]
)
def test_without_the_token_everything_is_refused(stranger: TestClient, path: str) -> None:
    answer = stranger.get(path)
    assert answer.status_code == 403
    assert "saepipe" in answer.text
    assert "set-cookie" not in answer.headers


def test_the_token_becomes_a_cookie_that_no_script_and_no_other_site_can_use(stranger: TestClient) -> None:
    answer = stranger.get("/", params={"token": TOKEN})
    assert answer.text.startswith("<!doctype html>")
    cookie = answer.headers["set-cookie"]
    assert cookie == f"saepipe-{PORT}={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
    assert stranger.get("/data/runs").json()["runs"][0]["d_sae"] == D_SAE


def test_among_odd_cookies_a_wrong_one_is_refused_and_the_right_one_accepted(stranger: TestClient) -> None:
    odd = 'a="b; {json: [1, 2]}; =; '
    assert stranger.get("/data/runs", headers={"cookie": f"{odd}saepipe-{PORT}=wrong"}).status_code == 403
    assert stranger.get("/data/runs", headers={"cookie": f"{odd}saepipe-{PORT}={TOKEN}"}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", "", "0.0.0.0:8123"]
)
def test_another_host_is_refused_even_with_the_token(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}, params={"token": TOKEN}).status_code == 421
    assert client.get("/data/runs", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("name", ["host", "Host", "cookie", "origin", "content-type"])
def test_a_header_that_decides_about_access_comes_once(client: TestClient, name: str) -> None:
    value = f"127.0.0.1:{PORT}" if name.lower() == "host" else "x"
    answer = client.get("/data/runs", headers=[(name, value), (name, value)])
    assert answer.status_code == 400
    assert "more than one" in answer.text


def test_damaged_notes_are_explained(client: TestClient, runs: list[Path]) -> None:
    path = runs[0] / FILE
    for content in ("[", '{"run": 1, "notes": {}}', f'{{"run": "x", "notes": {{"{"9" * 5000}": "y"}}}}'):
        path.write_text(content)
        for answer in (
            client.get("/data/0/notes"),
            client.put("/data/0/notes/3", json={"text": "x"}, headers=WRITES),
        ):
            assert answer.status_code == 409
            assert f"{path} does not contain notes" in answer.text
        assert client.get("/data/0/latent/1").status_code == 200
        assert path.read_text() == content
    path.unlink()


def test_localhost_is_this_machine_too(app: Any) -> None:
    local = TestClient(app, base_url=f"http://localhost:{PORT}")
    assert local.get("/", params={"token": TOKEN}).status_code == 200
    answer = local.put("/data/0/notes/1", json={"text": ""}, headers={"origin": f"http://localhost:{PORT}"})
    assert answer.status_code == 204


TRAVERSALS = (
    "/../notes.json", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "/data/../../config.yaml",
    "/data/%2e%2e/%2e%2e/config.yaml", "/data/0/latent/..%2f..%2fconfig.yaml", "/data//etc/passwd",
    "/data/0/latent/1%00", "/browse.js/../server.py", "/server.py", "/source_static.js", "/__init__.py",
    "/page/index.html", "/data/0", "/data/",
)  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSALS)
def test_a_url_is_never_a_path(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "path", ["/data/3/columns", f"/data/0/latent/{D_SAE}", "/data/0/latent/-1", "/data/0/latent/" + "9" * 5000]
)
def test_missing_resources_are_not_found(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_every_answer_has_the_security_headers(client: TestClient, stranger: TestClient) -> None:
    paths = ["/", "/browse.css", "/browse.js", "/source.js", "/icon.svg", "/data/runs", "/data/0/latent/0", "/nothing"]
    for answer in [client.get(path) for path in paths] + [stranger.get("/", headers={"host": "evil"})]:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "access-control-allow-origin" not in answer.headers
    assert "script-src 'self'" in HEADERS["Content-Security-Policy"]
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_content_types(client: TestClient) -> None:
    types = {
        "/": "text/html",
        "/browse.css": "text/css",
        "/browse.js": "text/javascript",
        "/data/runs": "application/json",
    }
    for path, kind in types.items():
        assert client.get(path).headers["content-type"].split(";")[0] == kind


def test_a_note_can_be_written_and_read(client: TestClient, runs: list[Path]) -> None:
    text = "capital letters 😀\n<script>alert(1)</script>"
    assert client.put("/data/1/notes/7", json={"text": text}, headers=WRITES).status_code == 204
    assert client.get("/data/1/notes").json() == {"7": text}
    assert (runs[1] / FILE).is_file()
    assert client.put("/data/1/notes/7", json={"text": ""}, headers=WRITES).status_code == 204
    assert client.get("/data/1/notes").json() == {}


def test_concurrent_notes(client: TestClient) -> None:
    def write(latent: int) -> int:
        return client.put(f"/data/2/notes/{latent}", json={"text": f"n{latent}"}, headers=WRITES).status_code

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(write, range(40))) == {204}
    assert client.get("/data/2/notes").json() == {str(latent): f"n{latent}" for latent in range(40)}


REFUSED: tuple[tuple[dict[str, str], bytes, int], ...] = (
    ({"origin": "http://evil.example"}, b'{"text": "x"}', 403),
    ({"origin": "null"}, b'{"text": "x"}', 403),
    ({"origin": f"http://localhost:{PORT}"}, b'{"text": "x"}', 403),  # this server, but not the host of the request
    ({"origin": ""}, b'{"text": "x"}', 403),
    ({"content-type": "text/plain"}, b'{"text": "x"}', 415),  # a type that a form of another site can send
    ({}, b" " * (MAX_BODY + 1), 413),
    ({}, b"", 400),
    ({}, b"[1]", 400),
    ({}, b'{"text": 1}', 400),
    ({}, b'{"text": "' + b"x" * 20_001 + b'"}', 400),
    ({}, b"[" * 60_000, 400),
)


@pytest.mark.parametrize(("headers", "body", "status"), REFUSED)
def test_invalid_writes_are_refused(client: TestClient, headers: dict[str, str], body: bytes, status: int) -> None:
    assert client.put("/data/0/notes/3", content=body, headers={**WRITES, **headers}).status_code == status
    assert client.get("/data/0/notes").json() == {}


def test_a_write_without_an_origin_or_a_length_is_refused(client: TestClient) -> None:
    without = {"content-type": "application/json"}
    assert client.put("/data/0/notes/3", content=b'{"text": "x"}', headers=without).status_code == 403
    assert client.put("/data/0/notes/3", content=iter([b'{"text": "x"}']), headers=WRITES).status_code == 413


@pytest.mark.parametrize(
    "path", [f"/data/0/notes/{D_SAE}", "/data/9/notes/1", "/data/0/notes", "/data/0/latent/1", "/data/runs"]
)
def test_only_notes_of_latents_can_be_written(client: TestClient, path: str) -> None:
    assert client.put(path, json={"text": "x"}, headers=WRITES).status_code == 404


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH"])
def test_other_methods_are_refused(client: TestClient, method: str) -> None:
    assert client.request(method, "/data/0/notes/1", json={"text": "x"}, headers=WRITES).status_code == 405
