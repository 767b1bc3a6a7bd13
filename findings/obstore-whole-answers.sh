#!/usr/bin/env bash
# obstore 0.12.1: an answer that brings bytes all the time is given up after 30 seconds, and asked for from its start.
#
# Guess: the time limit of a request is for connecting, or for silence; a large object over a slow network only takes
# longer, and `retry_config` bounds failures.
# Seen: with the defaults, 30 s include the whole body. A 4 MiB object at 100 kB/s needs 42 s. `bytes()` is cut off
# after 30 s though a piece arrives every tenth of a second, goes on with a range request for what is missing, and comes
# to the right bytes with two requests; with max_retries 0 it raises instead. `client_options={"timeout": "90s"}` needs
# one request. `read_timeout` (silence) does not lift the limit by itself.
# Who meets it: whoever fetches shards of some 100 MB from a bucket over a shared link. saepipe sets `timeout` to a day
# and `read_timeout` to a minute (docs/storage.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check obstore==0.12.1
"$folder/venv/bin/python" - <<'PYTHON'
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import obstore
from obstore.store import S3Store

SIZE, RATE = 4 * 1024**2, 100_000  # 42 s
BODY = bytes(range(256)) * (SIZE // 256)


class Slow(BaseHTTPRequestHandler):
    """Sends an object steadily, ranges too."""

    protocol_version = "HTTP/1.1"
    requests: list[tuple[str, str | None]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.requests.append((self.path, wanted))
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        body = BODY[start:]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{SIZE - 1}/{SIZE}")
        for name, value in {
            "Content-Length": str(len(body)),
            "ETag": '"a"',
            "Last-Modified": "Mon, 30 Nov 2026 00:00:00 GMT",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for at in range(0, len(body), RATE // 10):
                self.wfile.write(body[at : at + RATE // 10])
                time.sleep(0.1)
        except OSError:
            pass  # the client has gone

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
Thread(target=server.serve_forever, daemon=True).start()


def fetched(key: str, client_options: dict[str, object], max_retries: int) -> str:
    """Fetches the object, and says how that went."""
    store = S3Store(
        "bucket",
        endpoint=f"http://127.0.0.1:{server.server_port}",
        region="us-east-1",
        access_key_id="x",
        secret_access_key="y",
        client_options={"allow_http": True, **client_options},
        retry_config={"max_retries": max_retries, "retry_timeout": timedelta(minutes=5)},
    )
    began = time.monotonic()
    try:
        came = bytes(obstore.get(store, key).bytes()) == BODY
    except Exception as error:
        print(f"{key}: {type(error).__name__} after {time.monotonic() - began:.0f} s")
        return "error"
    number = sum(path.endswith(key) for path, _ in Slow.requests)
    print(f"{key}: {number} requests, {time.monotonic() - began:.0f} s, {'right' if came else 'WRONG'} bytes")
    return f"{number} requests" if came else "wrong"


CASES = {
    "defaults": ({}, 10, "2 requests"),
    "no-retries": ({}, 0, "error"),
    "silence-only": ({"read_timeout": "60s"}, 0, "error"),
    "longer": ({"timeout": "90s"}, 0, "1 requests"),
}
with ThreadPoolExecutor() as pool:
    seen = {key: pool.submit(fetched, key, options, retries) for key, (options, retries, _) in CASES.items()}
for key, (_, _, expected) in CASES.items():
    assert seen[key].result() == expected, f"the behaviour has changed: {key}: {seen[key].result()}"
PYTHON
