"""Server of the extra [browse]: serves the page and the resources, and stores notes; on 127.0.0.1 only."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from saepipe.data.errors import MachineError, SaepipeError
from saepipe.evaluate.browse.guard import Guard
from saepipe.evaluate.browse.open_run import OpenRun
from saepipe.evaluate.browse.page import page_files
from saepipe.evaluate.browse.resources import Resources

ADDRESS = "127.0.0.1"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MAX_NOTE = 20_000
"""Characters."""
MAX_TEXT = 8_000
"""Characters."""
Reader = Callable[[OpenRun, str], Mapping[str, Any]]
"""Reads a text with the model and the SAE of a run."""


def application(resources: Resources, token: str, port: int, own_text: Reader | None = None) -> ASGIApp:
    """Returns the application behind its guard. A URL names a resource or one of the page's files, never a path.

    `own_text` answers the texts that people try; without it the page says that there is no model.
    """
    files = page_files("server")

    def file(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:
            return PlainTextResponse("There is no such page.\n", 404)
        return Response(files[name], media_type=_TYPES[name[name.rindex(".") :]])

    def resource(request: Request) -> Response:
        data = resources.get(request.path_params["name"])
        if data is None:
            return PlainTextResponse("There is no such resource.\n", 404)
        return Response(data, media_type="application/json")

    async def write_note(request: Request) -> Response:
        if (target := resources.note_of(request.path_params["name"])) is None:
            return PlainTextResponse("There is no such latent.\n", 404)
        text = _text(await request.body(), MAX_NOTE)
        if text is None:
            return PlainTextResponse(f'A note is {{"text": "..."}} of at most {MAX_NOTE:,} characters.\n', 400)
        notes, latent = target
        await run_in_threadpool(notes.write, latent, text)
        return Response(status_code=204)

    async def read_text(request: Request) -> Response:
        if own_text is None:
            return PlainTextResponse("There is no model: start saepipe browse with --model auto.\n", 404)
        if (run := resources.run(request.path_params["run"])) is None:
            return PlainTextResponse("There is no such run.\n", 404)
        text = _text(await request.body(), MAX_TEXT)
        if text is None:
            return PlainTextResponse(f'A text is {{"text": "..."}} of at most {MAX_TEXT:,} characters.\n', 400)
        answer = await run_in_threadpool(own_text, run, text)
        return Response(json.dumps(answer, allow_nan=False), media_type="application/json")

    routes = [
        Route("/", file),
        Route("/data/{name:path}", resource),
        Route("/data/{name:path}", write_note, methods=["PUT"]),
        Route("/text/{run}", read_text, methods=["PUT"]),
        Route("/{name}", file),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={SaepipeError: _explained}), token, port)


def listen(port: int) -> socket.socket:
    """Returns a socket for connections from this machine; port 0 picks a free one.

    Raises:
        MachineError: if the port is taken.
    """
    try:
        return socket.create_server((ADDRESS, port))
    except OSError as error:
        hint = "choose another --port, or omit it"
        raise MachineError(f"cannot listen on {ADDRESS}:{port}: {error.strerror}", hint=hint) from None


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Serves until Ctrl-C or SIGTERM, which end it normally."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", ws="none", server_header=False,
        proxy_headers=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    with listening, _ignore_signals():
        uvicorn.Server(config).run(sockets=[listening])


def _explained(request: Request, error: Exception) -> Response:
    """Answers with an error about files that lie on disk, such as damaged notes, which the page shows."""
    return PlainTextResponse(f"{error}\n", 409)


def _text(body: bytes, limit: int) -> str | None:
    """Returns the text that was sent; None if there is none, or it is longer than `limit` characters."""
    try:
        text = json.loads(body)["text"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return text if isinstance(text, str) and len(text) <= limit else None


@contextmanager
def _ignore_signals() -> Iterator[None]:
    """Ignores SIGINT and SIGTERM: uvicorn stops at a signal and then raises it again for its caller."""
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
