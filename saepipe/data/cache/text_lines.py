"""Manifest lines that keep the digest of a dropped pool's text, until a harvest has made the pool again.

The text is read again from its start on every resume. Without these lines, nothing would show that the part which a
dropped pool was made of has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from saepipe.data.folders.artifact import Line


def text_lines(lines: Iterable[Line], kept: Sequence[Line]) -> list[Line]:
    """Returns one line, without files, for each digest of text in `lines` whose pool is not among the `kept` lines."""
    present = {(line["split"], line["pool"]) for line in kept if line["kind"] == "pool"}
    dropped = {(line["split"], line["pool"]): line for line in lines if "text" in line}
    return [
        {"kind": "text", "split": split, "pool": pool, "batches": line["batches"], "text": line["text"], "files": {}}
        for (split, pool), line in sorted(dropped.items())
        if (split, pool) not in present
    ]
