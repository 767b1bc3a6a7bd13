"""A local server with OpenAI's interface for chats, whose model reads marks and lists what holds them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

MARKED = re.compile("<<(.*?)>>")


def reader(prompt: str) -> str:
    """Answers as a model that explains by the token marked most, and finds that token, or its marks, again."""
    excerpts = dict(re.findall(r"^(\d+)\. (.*)$", prompt, flags=re.MULTILINE))
    if "Say in one short sentence" in prompt:
        tokens = [token for excerpt in excerpts.values() for token in MARKED.findall(excerpt)]
        return f"the token {max(tokens, key=tokens.count)!r}"
    (token,) = re.findall(r"active on this: the token '(.*)'$", prompt, flags=re.MULTILINE)
    if "In which excerpts are the marked" in prompt:
        chosen = [int(number) for number, excerpt in excerpts.items() if set(MARKED.findall(excerpt)) == {token}]
    else:
        chosen = [int(number) for number, excerpt in excerpts.items() if token in excerpt]
    return json.dumps(chosen)


class Served:
    """What a server was asked, and how it answers from now on."""

    def __init__(self, url: str, answer: Callable[[str], str]) -> None:
        self.url, self.answer = url, answer
        self.failures: list[int] = []
        """statuses that it answers with first"""
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []


@contextmanager
def chat_server(answer: Callable[[str], str] = reader) -> Iterator[Served]:
    """Yields a server on loopback that is closed afterwards."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.requests.append(body)
            served.keys.append(self.headers["Authorization"])
            status = served.failures.pop(0) if served.failures else 200
            text = served.answer(body["messages"][0]["content"]) if status == 200 else "no"
            reply = {"choices": [{"message": {"role": "assistant", "content": text}}]}
            content = json.dumps(reply | {"usage": {"prompt_tokens": 100, "completion_tokens": 5}}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Served(f"http://127.0.0.1:{server.server_address[1]}/v1", answer)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
