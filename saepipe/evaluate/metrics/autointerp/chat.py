"""A server with OpenAI's interface for chats: one question, one answer; every answer is kept, and asked for once."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from saepipe.data.config.base import fingerprint
from saepipe.data.errors import ConfigError, RemoteError

ATTEMPTS = 5
FIRST_WAIT = 1.0
"""Seconds before the second attempt, on average; doubled before each later one."""
_TRANSIENT = (408, 409, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Answer:
    """An answer, and what it cost."""

    prompt: str
    text: str
    tokens_in: int
    tokens_out: int


class ChatServer:
    """Asks a model of a server, at temperature 0."""

    def __init__(self, url: str, model: str, key_variable: str, timeout: float) -> None:
        self.url, self.model = url.rstrip("/"), model
        key = os.environ.get(key_variable)
        self._client = httpx.Client(timeout=timeout, headers={"Authorization": f"Bearer {key}"} if key else {})
        self._key_variable = key_variable

    def close(self) -> None:
        self._client.close()

    def ask(self, prompt: str, most_tokens: int) -> Answer:
        """Returns the answer to one question.

        Raises:
            ConfigError: if the server refuses the key.
            RemoteError: if it cannot be reached, gives up, or answers something else.
        """
        message = {"role": "user", "content": prompt}
        body = {"model": self.model, "messages": [message], "temperature": 0, "max_tokens": most_tokens}
        answer = self._post(body)
        try:
            usage = answer.get("usage") or {}
            text = str(answer["choices"][0]["message"]["content"] or "")
            return Answer(prompt, text, int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise RemoteError(f"{self.url} gave no answer of a chat: {str(answer)[:200]}") from error

    def _post(self, body: dict[str, Any]) -> Any:
        reason = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
            try:
                response = self._client.post(f"{self.url}/chat/completions", json=body)
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            if response.status_code in (401, 403):
                hint = f"put its key into the environment variable {self._key_variable}"
                raise ConfigError(f"{self.url} refuses the key (status {response.status_code})", hint=hint)
            if response.status_code in _TRANSIENT:
                reason = f"status {response.status_code}"
                continue
            return self._content(response)
        raise RemoteError(f"{self.url} does not answer: {reason} ({ATTEMPTS} attempts)", hint="run it again to go on")

    def _content(self, response: httpx.Response) -> Any:
        if response.status_code != 200:
            raise RemoteError(f"{self.url} answers {response.status_code}: {response.text[:200]}")
        try:
            return response.json()
        except ValueError as error:
            raise RemoteError(f"{self.url} answers something else than JSON: {response.text[:200]}") from error


class Transcript:
    """Every question and answer, a line each in a file that is only appended to; an answer that is there is reused."""

    def __init__(self, path: Path, server: ChatServer) -> None:
        self.path, self._server = path, server
        self._answers = dict(self._read())
        self.num_asked = 0

    def ask(self, prompt: str, most_tokens: int) -> Answer:
        """Returns the answer, from the file if it is there; raises as `ChatServer.ask`."""
        key = fingerprint([self._server.model, most_tokens, prompt])
        if key not in self._answers:
            answer = self._server.ask(prompt, most_tokens)
            self._append(key, answer)
            self._answers[key] = answer
            self.num_asked += 1
        return self._answers[key]

    def _read(self) -> Iterator[tuple[str, Answer]]:
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    yield entry.pop("key"), Answer(**entry)
                except (ValueError, KeyError, TypeError):  # torn by a crash: it is asked again
                    continue

    def _append(self, key: str, answer: Answer) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" if self._is_torn() else "")
            file.write(json.dumps({"key": key, **asdict(answer)}) + "\n")

    def _is_torn(self) -> bool:
        """Returns whether the file ends within a line."""
        with self.path.open("rb") as file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"


@contextmanager
def chat_server(url: str, model: str, key_variable: str, timeout: float) -> Iterator[ChatServer]:
    """Yields a server whose connections are closed afterwards."""
    server = ChatServer(url, model, key_variable, timeout)
    try:
        yield server
    finally:
        server.close()
