"""Writes of Google Cloud's XML interface, which obstore uses, for fake-gcs-server, which takes writes as JSON only.

Conditions on generations are passed on: it is the server that answers them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

BOUNDARY = "saepipe-boundary"


class Call(NamedTuple):
    """A request to a server."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Answer(NamedTuple):
    """The answer to it."""

    status: int
    headers: Mapping[str, str]
    content: bytes


Ask = Callable[[Call], Answer]


def xml_over_json(call: Call, ask: Ask) -> Answer:
    """Asks a server for what a call says, and answers a write as the XML interface does."""
    if call.method != "PUT":
        return ask(call)
    answer = ask(_as_json(call))
    if answer.status != 200:
        return answer
    written = json.loads(answer.content)
    written = written.get("resource", written)
    return Answer(200, {"ETag": f'"{written["etag"]}"', "x-goog-generation": written["generation"]}, b"")


def _as_json(call: Call) -> Call:
    headers = {key.lower(): value for key, value in call.headers.items()}
    bucket, _, name = call.path.removeprefix("/").partition("/")
    if source := headers.get("x-goog-copy-source"):
        of_bucket, _, of_name = source.removeprefix("/").partition("/")
        of_name = of_name.replace("/", "%2F")
        return Call("POST", f"/storage/v1/b/{of_bucket}/o/{of_name}/rewriteTo/b/{bucket}/o/{name}", {}, b"")
    generation = headers.get("x-goog-if-generation-match")
    condition = "" if generation is None else f"&ifGenerationMatch={generation}"
    parts = (b"Content-Type: application/json\r\n\r\n{}", b"Content-Type: application/octet-stream\r\n\r\n" + call.body)
    start, end = f"--{BOUNDARY}\r\n".encode(), f"--{BOUNDARY}--\r\n".encode()
    body = b"".join(start + part + b"\r\n" for part in parts) + end
    path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart&name={name}{condition}"
    return Call("POST", path, {"Content-Type": f"multipart/related; boundary={BOUNDARY}"}, body)
