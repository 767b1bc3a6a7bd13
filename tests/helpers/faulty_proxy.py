"""A proxy on loopback before a server of objects: lists the requests that pass, and answers some with faults."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count, cycle
from typing import Any, Literal, get_args

from helpers.xml_over_json import Answer, Ask, Call

Fault = Literal["503", "429", "drop", "lost", "cut", "short", "late", "slow", "held"]
"""503 and 429 answer in place of the server; `drop` does not answer; `lost` lets the server do it, and answers 503;
`cut` ends the connection within the body, `short` gives half of it as if it were all; `late` waits 50 ms,
`slow` 50 ms after each sixteenth of the body, and `held` until `go` is set.
"""

FAULTS: tuple[Fault, ...] = tuple(fault for fault in get_args(Fault) if fault not in ("slow", "held"))

BUSY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>'


@dataclass(frozen=True)
class Request:
    """A request, and the size of what the server answered."""

    method: str
    path: str
    num_sent: int
    num_answered: int


@dataclass
class FaultyProxy:
    """Requests so far, and the fault of each one to come: None lets it pass."""

    url: str
    upstream: int
    gateway: Callable[[Call, Ask], Answer]
    """translates for the server"""
    fault: Callable[[str, str], Fault | None] = lambda method, path: None
    requests: list[Request] = field(default_factory=list)
    num_faults: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    go: threading.Event = field(default_factory=threading.Event)

    def once(self, fault: Fault, method: str, part: str) -> None:
        """Gives the next request of a method whose path contains `part` a fault."""
        left = [fault]

        def choose(asked: str, path: str) -> Fault | None:
            return left.pop() if left and asked == method and part in path else None

        self.fault = choose

    def always(self, fault: Fault, method: str, part: str) -> None:
        """Gives every request of a method whose path contains `part` a fault."""
        self.fault = lambda asked, path: fault if asked == method and part in path else None

    def count(self, method: str, part: str = "") -> int:
        """Number of requests of a method whose path contains `part`."""
        return sum(request.method == method and part in request.path for request in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.proxy.lock:
            fault = self.proxy.fault(self.command, self.path)
            self.proxy.num_faults += fault is not None
        if fault == "late":
            time.sleep(0.05)
        if fault == "held":
            self.proxy.go.wait(30)
        if fault == "drop":
            self.close_connection = True
        elif fault in ("503", "429"):
            self._answer(int(fault), {}, BUSY)
        else:
            status, headers, content = self.proxy.gateway(self._call(body), self._ask)
            with self.proxy.lock:
                self.proxy.requests.append(Request(self.command, self.path, len(body), len(content)))
            if fault == "lost":
                self._answer(503, {}, BUSY)
            elif fault == "slow":
                self._answer(status, headers, content, pause=0.05)
            elif fault == "short":
                self._answer(status, headers, content[: len(content) // 2])
            else:
                self._answer(status, headers, content, cut=fault == "cut")

    def _call(self, body: bytes) -> Call:
        left_out = ("connection", "content-length", "transfer-encoding", "expect")
        headers = {key: value for key, value in self.headers.items() if key.lower() not in left_out}
        return Call(self.command, self.path, headers, body)

    def _ask(self, call: Call) -> Answer:
        headers = {**call.headers, "Content-Length": str(len(call.body))}
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.upstream, timeout=30)
        connection.request(call.method, call.path, call.body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        left_out = ("connection", "transfer-encoding", "server", "date")
        return Answer(answer.status, {k: v for k, v in answer.getheaders() if k.lower() not in left_out}, content)

    def _answer(
        self, status: int, headers: Mapping[str, str], content: bytes, *, cut: bool = False, pause: float = 0
    ) -> None:
        self.send_response(status)
        size = headers.get("Content-Length") if self.command == "HEAD" else str(len(content))
        for key, value in {**headers, "Content-Length": size or "0"}.items():
            self.send_header(key, value)
        self.end_headers()
        body = content[: len(content) // 2] if cut else content
        step = max(1, len(body) // 16 if pause else len(body))
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            time.sleep(pause)
        self.close_connection = self.close_connection or cut

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815 - named by http.server

    def log_message(self, *arguments: Any) -> None:
        pass


def direct(call: Call, ask: Ask) -> Answer:
    """Asks the server as the client asked."""
    return ask(call)


@contextmanager
def faulty_proxy(upstream: int, gateway: Callable[[Call, Ask], Answer] = direct) -> Iterator[FaultyProxy]:
    """Yields a proxy before the server at a port, closed afterwards."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    handler.proxy = proxy = FaultyProxy(f"http://127.0.0.1:{server.server_port}", upstream, gateway)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


def every_twentieth() -> Callable[[str, str], Fault | None]:
    """Returns a choice of faults for 5 % of the requests, each kind in turn."""
    faults, number = cycle(FAULTS), count(1)
    return lambda method, path: next(faults) if next(number) % 20 == 0 else None
