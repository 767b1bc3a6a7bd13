#!/usr/bin/env bash
# obstore 0.12.1: the answer to a write cannot be given back as the condition of the next one.
#
# Guess: `put` returns {"e_tag", "version"}, and `mode` takes {"e_tag", "version"}, each annotated `str | None` and with
# the advice to preserve both; so `put(..., mode=answer)` writes if the object is as it was written.
# Seen: stores without versions (S3 by default, Azure, memory) answer with version None, and a mode with None raises
# TypeError. Without that key it works. On Google Cloud it is the other way round: without "version" it raises, since
# only that is compared.
# Who meets it: whoever keeps a lock or a manifest by conditional writes. saepipe keeps both, and passes on those that
# are not None (saepipe/data/remote/stored_objects.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check obstore==0.12.1
"$folder/venv/bin/python" - <<'PYTHON'
import obstore
from obstore.store import GCSStore, MemoryStore

store = MemoryStore()
answer = obstore.put(store, "a", b"1")
print(f"answer to a write: {answer}")
try:
    obstore.put(store, "a", b"2", mode=answer)
except TypeError as error:
    print(f"given back as the mode: TypeError: {error}")
else:
    raise AssertionError("the behaviour has changed: it is taken as it is")
obstore.put(store, "a", b"2", mode={"e_tag": answer["e_tag"]})
print("with the e_tag alone: written")

try:
    obstore.put(GCSStore("bucket", bearer_token="x"), "a", b"2", mode={"e_tag": "x"})
except obstore.exceptions.BaseError as error:
    print(f"Google Cloud, with the e_tag alone: {str(error).splitlines()[0]}")
    assert "Version required" in str(error), "the behaviour has changed"
PYTHON
