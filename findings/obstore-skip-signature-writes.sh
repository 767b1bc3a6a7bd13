#!/usr/bin/env bash
# obstore 0.12.1: `skip_signature` of a GCSStore holds for reads only; writes still look for credentials, and fail.
#
# Guess: with skip_signature=True (GOOGLE_SKIP_SIGNATURE=true) no request is signed, so a local emulator needs nothing
# else, as with S3 and Azure.
# Seen: get and list are sent without a signature. put, copy and delete first ask the machine for a token; where it has
# none they raise, and no request reaches the server. With bearer_token (GOOGLE_BEARER_TOKEN), any at all, they are sent.
# S3Store's writes are sent with skip_signature alone.
# Who meets it: whoever tries gs:// on an emulator or behind a gateway that authenticates by itself. saepipe's page on
# storage names GOOGLE_BEARER_TOKEN (docs/storage.md).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check obstore==0.12.1
env -u GOOGLE_APPLICATION_CREDENTIALS -u GOOGLE_SERVICE_ACCOUNT HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import obstore
from obstore.store import GCSStore, S3Store


class Server(BaseHTTPRequestHandler):
    """Takes every request, and lists it."""

    protocol_version = "HTTP/1.1"
    requests: list[str] = []

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.requests.append(f"{self.command}{' signed' if 'Authorization' in self.headers else ''}")
        self.send_response(200)
        headers = {"Content-Length": "0", "ETag": '"a"', "Last-Modified": "Mon, 30 Nov 2026 00:00:00 GMT"}
        for name, value in {**headers, "x-goog-generation": "1"}.items():
            self.send_header(name, value)
        self.end_headers()

    do_GET = do_PUT = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
common = {
    "client_options": {"allow_http": True},
    "retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=2)},
}


def seen(store: object) -> list[str]:
    """Returns the requests that a read, a write and a removal send, and the errors of those that send none."""
    Server.requests.clear()
    for action in (lambda: obstore.get(store, "a"), lambda: obstore.put(store, "a", b""), lambda: store.delete("a")):
        try:
            action()
        except Exception as error:
            Server.requests.append(type(error).__name__)
    return list(Server.requests)


unsigned = seen(GCSStore("bucket", base_url=url, skip_signature=True, **common))
token = seen(GCSStore("bucket", base_url=url, bearer_token="any", **common))
s3 = seen(S3Store("bucket", endpoint=url, region="us-east-1", skip_signature=True, **common))[:2]
print(f"GCS, skip_signature: {unsigned}\nGCS, bearer_token: {token}\nS3, skip_signature: {s3}")
assert unsigned == ["GET", "GenericError", "GenericError"], "the behaviour has changed"
assert token == ["GET signed", "PUT signed", "DELETE signed"]
assert s3 == ["GET", "PUT"]
PYTHON
