"""Names that become folders: a study's variants, imported SAEs."""

from __future__ import annotations

import re

from saepipe.data.errors import ConfigError

LONGEST_SLUG = 200
"""Bytes; a file system allows 255, and files are renamed into place from longer names."""


def slug(name: str) -> str:
    """Returns `name` as the name of one folder: anything but letters, digits and `_.=,+-` becomes `-`.

    Raises:
        ConfigError: if it starts with a dot, so that it would be hidden or lead out of its parent, or is too long.
    """
    text = re.sub(r"[^\w.=,+-]+", "-", name)
    size = len(text.encode())
    if not text or text.startswith("."):
        raise ConfigError(f"{name!r} cannot name a folder", hint="start it with a letter or a digit")
    if size > LONGEST_SLUG:
        hint = "give it a shorter `name`"
        raise ConfigError(f"the name {text[:60]}... has {size} bytes, more than {LONGEST_SLUG}", hint=hint)
    return text
