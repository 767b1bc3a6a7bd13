"""A local Hugging Face hub on 127.0.0.1, with the parts of its protocol that transformers, datasets and uploads use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

Files = Mapping[str, bytes]
"""The files of a commit, by path."""

Fault = int | Literal["never answers", "asks to wait", "web page", "not JSON", "cut short", "hangs up"]
"""What a request gets instead of an answer: an error status, or a kind of misbehaviour."""

REASONS: dict[Fault, str] = {
    "never answers": "it did not answer in time",
    "asks to wait": "it answered 429, too many requests, and asks to wait 3,600 s",
    "web page": "a web page came instead of data",
    "not JSON": "its answer is not JSON",
    "cut short": "its answer was cut short",
    "hangs up": "its answer was cut short",
    404: "it does not exist",
    500: "it answered 500, internal error",
}
"""Reason that a message gives for each fault."""

_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?")
_WRITE = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/(.+)")
_BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")


class HubError(Exception):
    """An error response: the status, and the code by which huggingface_hub distinguishes errors."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


@dataclass
class Repo:
    """A model or dataset: its commits, of which the last is `main`, tags of some commits, and other branches."""

    commits: list[Files]
    tags: Mapping[str, int] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    branches: dict[str, list[Files]] = field(default_factory=dict)

    def sha(self, revision: str = "main") -> str:
        return self._find(revision)[0]

    def files(self, revision: str = "main") -> Files:
        return self._find(revision)[1]

    def add(self, branch: str, files: Files) -> str:
        """Adds a commit to a branch, and returns its sha."""
        self.files(branch)  # raises if there is no such branch
        (self.commits if branch == "main" else self.branches[branch]).append(files)
        return self.sha(branch)

    def _find(self, revision: str) -> tuple[str, Files]:
        """(sha, files) of a branch, a tag or a commit."""
        revisions: dict[str, tuple[str, Files]] = {}
        for branch, commits in {**self.branches, "main": self.commits}.items():
            num_shared = sum(left is right for left, right in zip(commits, self.commits, strict=False))
            suffixes = ["" if number < num_shared else f" of {branch}" for number in range(len(commits))]
            history = [(_sha(f"{number}{suffixes[number]}"), files) for number, files in enumerate(commits)]
            revisions |= {sha: (sha, files) for sha, files in history} | {branch: history[-1]}
        revisions |= {tag: (_sha(str(number)), self.commits[number]) for tag, number in self.tags.items()}
        if revision not in revisions:
            raise HubError(404, "RevisionNotFound")
        return revisions[revision]


@dataclass
class Hub:
    """Repositories by `models/org/name` or `datasets/org/name`, and the requests received, as `GET /path`."""

    repos: MutableMapping[str, Repo]
    requests: list[str] = field(default_factory=list)
    url: str = ""
    writer: str = "a token that may write"
    """The only token that may create and change repositories, and read private ones."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files, by their SHA-256."""
    broken: dict[str, Fault] = field(default_factory=dict)
    """Faults of requests that contain a text: `{"POST /api/models/org/a/commit": 500}`."""

    def repo(self, name: str) -> Repo:
        if name not in self.repos:
            raise HubError(404, "RepoNotFound")
        return self.repos[name]

    def fetched(self, part: str) -> set[str]:
        """Names of the files read from paths that contain `part`."""
        return {line.rsplit("/", 1)[1] for line in self.requests if line.startswith("GET ") and part in line}


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serves the hub at `hub.url` while the block runs; afterwards, connections there are refused."""

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
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {path}"
        self.served.requests.append(request)
        try:
            for part, fault in self.served.broken.items():
                if part in request:
                    self._misbehave(fault)
                    return
            if match := _RESOLVE.fullmatch(path):
                kind, name, revision, file = match.groups()
                self._resolve(self._repo(f"{'datasets' if kind else 'models'}/{name}"), revision, file)
            elif match := _API.fullmatch(path):
                kind, name, endpoint, revision, folder = match.groups()
                query = parse_qs(urlsplit(self.path).query) | parse_qs(body.decode())
                repo = self._repo(f"{kind}/{name}")
                self._send_json(_api(repo, name, endpoint, revision or "main", folder or "", query))
            else:
                self._write(path, body)
        except HubError as error:
            self._send(error.status, b"", {"X-Error-Code": error.code})

    def _misbehave(self, fault: Fault) -> None:
        """Answers wrongly, or not at all, until the client closes the connection."""
        if isinstance(fault, int):
            raise HubError(fault, "")
        self.close_connection = True
        if fault == "never answers":
            self.rfile.read(1)
        elif fault == "hangs up":
            pass
        elif fault == "asks to wait":
            self._send(429, b"", {"Retry-After": "3600"})
        elif fault == "web page":
            self._send(200, b"<html>Please log in</html>", {"Content-Type": "text/html; charset=utf-8"})
        elif fault == "not JSON":
            self._send(200, b'{"sha": ', {"Content-Type": "application/json", "X-Repo-Commit": "0" * 40, "ETag": '"0"'})
        else:
            self._send(200, b"{", {"Content-Length": "1000", "X-Repo-Commit": "0" * 40, "ETag": '"0"'})

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _body(self) -> bytes:
        """Reads a body of known length, or a chunked one, as in file uploads."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _repo(self, name: str) -> Repo:
        repo = self.served.repo(name)
        if repo.private and not self._may_write():
            raise HubError(404, "RepoNotFound")  # the hub hides private repositories
        return repo

    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.served.writer}"

    def _write(self, path: str, body: bytes) -> None:
        """Handles the requests of an upload."""
        hub = self.served
        if path == "/api/validate-yaml":
            invalid = "license: wrong" in json.loads(body)["content"]
            answer = {"errors": [{"message": '"license" must be one of ...'}] if invalid else [], "warnings": []}
            self._send(400 if invalid else 200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
        elif path.startswith("/lfs/") and hashlib.sha256(body).hexdigest() == path[5:]:
            hub.objects[path[5:]] = body
            self._send(200, b"", {})
        elif not self._may_write():
            raise HubError(403 if "Authorization" in self.headers else 401, "")
        elif path == "/api/repos/create":
            settings = json.loads(body)
            name = f"{settings['organization']}/{settings['name']}"
            if f"models/{name}" in hub.repos:
                raise HubError(409, "")
            start = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
            hub.repos[f"models/{name}"] = Repo([start], private=settings.get("visibility") == "private")
            self._send_json({"url": f"{hub.url}/{name}"})
        elif _BATCH.fullmatch(path):
            self._send_json(
                {"transfer": "basic", "objects": [_upload(hub, item) for item in json.loads(body)["objects"]]}
            )
        elif match := _WRITE.fullmatch(path):
            name, endpoint, revision = match.groups()
            repo = hub.repo(f"models/{name}")
            if endpoint == "branch":
                repo.branches[revision] = list(repo.commits)
                self._send_json({})
            elif endpoint == "preupload":
                files = json.loads(body)["files"]
                self._send_json({"files": [_mode(repo.files(revision), file["path"]) for file in files]})
            else:
                sha = _commit(hub, repo, revision, [json.loads(line) for line in body.splitlines()])
                self._send_json({"commitUrl": f"{hub.url}/{name}/commit/{sha}", "commitOid": sha})
        else:
            raise HubError(404, "NotFound")

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
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _api(
    repo: Repo, name: str, endpoint: str | None, revision: str, folder: str, query: Mapping[str, list[str]]
) -> dict[str, Any] | list[dict[str, Any]]:
    """The JSON answer of an endpoint: a repository's description, a folder's entries, or the entries at some paths."""
    files = repo.files(revision)
    if endpoint in (None, "revision"):
        siblings = [{"rfilename": path} for path in files]
        access = {"gated": repo.gated, "private": repo.private}
        return {"id": name, "sha": repo.sha(revision), **access, "siblings": siblings}
    folders = {path[: end.start()] for path in files for end in re.finditer("/", path)}
    entries = [{"type": "file", "path": path, "size": len(x), "oid": _oid(x)} for path, x in files.items()]
    entries += [{"type": "directory", "path": path, "oid": _oid(path.encode())} for path in sorted(folders)]
    if endpoint == "paths-info":
        return [entry for entry in entries if entry["path"] in query["paths"]]
    if folder and folder not in folders:
        raise HubError(404, "EntryNotFound")
    below = [entry for entry in entries if str(entry["path"]).startswith(folder and folder + "/")]
    if query.get("recursive", ["False"])[0].lower() == "true":
        return below
    return [entry for entry in below if "/" not in str(entry["path"])[len(folder and folder + "/") :]]


def _upload(hub: Hub, item: Mapping[str, Any]) -> dict[str, Any]:
    """The upload address of a large file; none if the hub has the file."""
    actions = {} if item["oid"] in hub.objects else {"actions": {"upload": {"href": f"{hub.url}/lfs/{item['oid']}"}}}
    return {"oid": item["oid"], "size": item["size"], **actions}


def _mode(files: Files, path: str) -> dict[str, Any]:
    """Upload mode of a file, and the id of its current content; names listed in .gitignore are ignored."""
    large, content = path.endswith(".safetensors"), files.get(path)
    ignored = path.rsplit("/", 1)[-1] in files.get(".gitignore", b"").decode().splitlines()
    oid = {} if content is None else {"oid": hashlib.sha256(content).hexdigest() if large else _git_oid(content)}
    return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": ignored, **oid}


def _commit(hub: Hub, repo: Repo, branch: str, lines: list[dict[str, Any]]) -> str:
    """Commits all files or none; refuses if the branch has changed in the meantime."""
    files = dict(repo.files(branch))
    for line in lines:
        value = line["value"]
        if line["key"] == "header":
            if value.get("parentCommit", repo.sha(branch)) != repo.sha(branch):
                raise HubError(412, "")
        elif line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.objects[value["oid"]]
        else:
            assert line["key"] == "deletedFile"
            del files[value["path"]]
    return repo.add(branch, files)


def _sha(commit: str) -> str:
    return hashlib.sha1(f"commit {commit}".encode()).hexdigest()


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
