"""The seal of an evaluation's result: a digest of its content, in its `saepipe` block. Every reader checks it.

Results lie beside a finished run, so no manifest lists them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from saepipe.data.errors import CorruptDataError
from saepipe.data.folders.artifact import write_json
from saepipe.data.ranks.kept import KEPT

BLOCK, DIGEST = "saepipe", "digest"


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a result with its digest, the last key of its `saepipe` block."""
    plain = json.loads(json.dumps(result, allow_nan=False))  # as a reader will see it
    plain[BLOCK].pop(DIGEST, None)
    plain[BLOCK][DIGEST] = digest_of(plain)
    write_json(path, plain)
    KEPT.add()


def read_result(path: Path) -> dict[str, Any]:
    """Reads a result.

    Raises:
        CorruptDataError: if it is not a result of saepipe, or was changed after it was written.
    """
    try:
        result = json.loads(path.read_bytes())
        result[BLOCK].get(DIGEST)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptDataError(f"{path} is not a result of saepipe", hint=again(path)) from error
    if is_sealed(result) and (actual := digest_of(result)) != result[BLOCK][DIGEST]:
        message = f"{path} was changed after it was written (digest {actual}, not {result[BLOCK][DIGEST]})"
        raise CorruptDataError(message, hint=again(path))
    return dict(result)


def is_sealed(result: Mapping[str, Any]) -> bool:
    """Returns whether a result has a digest; those of earlier versions have none, and cannot be checked."""
    return DIGEST in result[BLOCK]


def digest_of(result: Mapping[str, Any]) -> str:
    """Returns the digest of all of a result but its digest: xxh3 of JSON with sorted keys and without spaces."""
    block = {key: value for key, value in result[BLOCK].items() if key != DIGEST}
    text = json.dumps({**result, BLOCK: block}, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_64_hexdigest(text.encode())


def again(path: Path) -> str:
    """Returns how a result is measured again."""
    if path.parent.name == "eval":
        return f"saepipe evaluate {path.parent.parent}, with the settings of the first time, measures it again"
    return "saepipe evaluate RUN --out, with the run and the settings of the first time, measures it again"
