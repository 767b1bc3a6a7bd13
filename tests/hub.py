"""A Hugging Face hub of one's own on 127.0.0.1: as much of its protocol as transformers and datasets speak."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = Mapping[str, bytes]
"""The content of a commit, by path."""

_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?")


class HubError(Exception):
    """What the hub answers instead: a status, and the code by which huggingface_hub tells errors apart."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


@dataclass
class Repo:
    """A model or a dataset: its commits, the last of them `main`, and tags for some of them."""

    commits: list[Files]
    tags: Mapping[str, int] = field(default_factory=dict)
    gated: bool = False

    def sha(self, revision: str = "main") -> str:
        return _sha(self._number(revision))

    def files(self, revision: str) -> Files:
        return self.commits[self._number(revision)]

    def _number(self, revision: str) -> int:
        numbers = {_sha(number): number for number in range(len(self.commits))}
        numbers |= {"main": len(self.commits) - 1, **self.tags}
        if revision not in numbers:
            raise HubError(404, "RevisionNotFound")
        return numbers[revision]


@dataclass
class Hub:
    """Repositories by `models/org/name` or `datasets/org/name`, and the requests so far, as `GET /path`."""

    repos: Mapping[str, Repo]
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def repo(self, name: str) -> Repo:
        if name not in self.repos:
            raise HubError(404, "RepoNotFound")
        return self.repos[name]

    def fetched(self, part: str) -> set[str]:
        """The file names that were read from paths with `part` in them."""
        return {line.rsplit("/", 1)[1] for line in self.requests if line.startswith("GET ") and part in line}


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serves the hub at `hub.url` while the block runs; afterwards nobody listens there."""

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    served: Hub

    def do_GET(self) -> None:
        form = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        path = unquote(urlsplit(self.path).path)
        self.served.requests.append(f"{self.command} {path}")
        try:
            if found := _RESOLVE.fullmatch(path):
                kind, name, revision, file = found.groups()
                self._resolve(self.served.repo(f"{'datasets' if kind else 'models'}/{name}"), revision, file)
            elif found := _API.fullmatch(path):
                kind, name, what, revision, folder = found.groups()
                asked = parse_qs(urlsplit(self.path).query) | parse_qs(form)
                repo = self.served.repo(f"{kind}/{name}")
                self._send_json(_api(repo, name, what, revision or "main", folder or "", asked))
            else:
                raise HubError(404, "NotFound")
        except HubError as error:
            self._send(error.status, b"", {"X-Error-Code": error.code})

    do_HEAD = do_POST = do_GET  # noqa: N815

    def _resolve(self, repo: Repo, revision: str, file: str) -> None:
        if repo.gated:
            raise HubError(403 if "Authorization" in self.headers else 401, "GatedRepo")
        if file not in repo.files(revision):
            raise HubError(404, "EntryNotFound")
        content = repo.files(revision)[file]
        headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": repo.sha(revision), "Accept-Ranges": "bytes"}
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(span[1]), min(int(span[2] or len(content)) + 1, len(content))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
            self._send(206, content[start:stop], headers)
        else:
            self._send(200, content, headers)

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _api(
    repo: Repo, name: str, what: str | None, revision: str, folder: str, asked: Mapping[str, list[str]]
) -> dict[str, Any] | list[dict[str, Any]]:
    """The JSON of one endpoint: what a repository is, what a folder of it holds, or what some paths are."""
    files = repo.files(revision)
    if what in (None, "revision"):
        siblings = [{"rfilename": path} for path in files]
        return {"id": name, "sha": repo.sha(revision), "gated": repo.gated, "siblings": siblings}
    folders = {path[: end.start()] for path in files for end in re.finditer("/", path)}
    entries = [{"type": "file", "path": path, "size": len(x), "oid": _oid(x)} for path, x in files.items()]
    entries += [{"type": "directory", "path": path, "oid": _oid(path.encode())} for path in sorted(folders)]
    if what == "paths-info":
        return [entry for entry in entries if entry["path"] in asked["paths"]]
    if folder and folder not in folders:
        raise HubError(404, "EntryNotFound")
    below = [entry for entry in entries if str(entry["path"]).startswith(folder and folder + "/")]
    if asked.get("recursive", ["False"])[0].lower() == "true":
        return below
    return [entry for entry in below if "/" not in str(entry["path"])[len(folder and folder + "/") :]]


def _sha(number: int) -> str:
    return hashlib.sha1(f"commit {number}".encode()).hexdigest()


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
