"""Access control: only a browser on this machine that has the token, and no page of another site through it."""

from __future__ import annotations

import secrets
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_ONCE = ("host", "origin", "content-type", "content-length", "cookie")
"""Headers that decide about access: of two, another program on the way could have believed the other one."""
MAX_BODY = 64 * 1024
"""Bytes."""


class Guard:
    """Wraps an application that listens on 127.0.0.1:`port`.

    - No header that decides about access may be there twice.
    - The Host header must be this server: another site's name that resolves to this machine (DNS rebinding) is refused.
    - The token comes once in the URL, `/?token=...`, and then in a cookie that scripts cannot read and other sites
      cannot send.
    - A write must come from the browser's own page (Origin), as JSON, and be short.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.cookie = f"saepipe-{port}"  # cookies ignore ports, and two servers must not share one
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # websockets and lifespan are not supported
        headers = Headers(scope=scope)
        by_url = self._is_token(parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0])

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                response_headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    response_headers[name] = value
                if by_url and not refusal:
                    response_headers["Set-Cookie"] = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            await send(message)

        refusal = self._refusal(scope["method"], headers, by_url)
        app = PlainTextResponse(refusal[1], refusal[0]) if refusal else self.app
        await app(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers, by_url: bool) -> tuple[int, str] | None:
        if repeated := [name for name in _ONCE if len(headers.getlist(name)) > 1]:
            return 400, f"The request has more than one {repeated[0]} header.\n"
        host = headers.get("host", "")
        if host not in self.hosts:
            return 421, "This host name is not served here.\n"
        if not by_url and not self._is_token(cookie_parser(headers.get("cookie", "")).get(self.cookie, "")):
            return 403, "Open the address that saepipe browse printed: it contains the token.\n"
        if method in ("GET", "HEAD"):
            return None
        if headers.get("origin") != f"http://{host}":
            return 403, "Only the page of saepipe browse may write.\n"
        if headers.get("content-type") != "application/json":
            return 415, "Only JSON is accepted.\n"
        length = headers.get("content-length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return 413, "The request is too long.\n"
        return None

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self.token.encode())
