"""Who may ask: this machine's own browser that was given the token, and no page of another site through it."""

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
LONGEST_BODY = 64 * 1024


class Guard:
    """Wraps an application that listens on 127.0.0.1:`port`.

    - Host must be ours: a name of another site that resolves to this machine (DNS rebinding) is refused.
    - The token comes once in the URL, `/?token=...`, and from then on in a cookie that no script can read and no
      other site can send.
    - What writes must come from our own page (Origin), as JSON, and be short.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self.app, self.token = app, token
        self.cookie = f"saepipe-{port}"  # cookies do not know ports: two browsers at once must not share one
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # neither websockets nor lifespan: there is nothing of that kind here
        headers = Headers(scope=scope)
        by_url = self._is_token(parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0])

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    out[name] = value
                if by_url and not refusal:
                    out["Set-Cookie"] = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            await send(message)

        refusal = self._refusal(scope["method"], headers, by_url)
        app = PlainTextResponse(refusal[1], refusal[0]) if refusal else self.app
        await app(scope, receive, sealed)

    def _refusal(self, method: str, headers: Headers, by_url: bool) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if host not in self.hosts:
            return 421, "This address is not served here.\n"
        if not by_url and not self._is_token(cookie_parser(headers.get("cookie", "")).get(self.cookie, "")):
            return 403, "Open the address that saepipe browse printed: it carries the token.\n"
        if method in ("GET", "HEAD"):
            return None
        if headers.get("origin") != f"http://{host}":
            return 403, "Only the browser's own page may write.\n"
        if headers.get("content-type") != "application/json":
            return 415, "Only JSON is taken.\n"
        length = headers.get("content-length", "")
        if not length.isdecimal() or int(length) > LONGEST_BODY:
            return 413, "That is too long.\n"
        return None

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self.token.encode())
