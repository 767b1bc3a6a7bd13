"""Types of a config's values that are bounded: beyond the bounds no machine could do what is asked."""

from __future__ import annotations

import os
import re
from typing import Annotated

from pydantic import AfterValidator, Field

MOST = 10**15
"""Largest whole number: more tokens, rows or steps than anything will ever count."""

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""What both torch and numpy take as a seed."""

_DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu)(:[0-9]{1,3})?")
_LONGEST_PATH, _LONGEST_NAME = 4095, 255
"""Bytes that Linux takes."""


def _check_device(name: str) -> str:
    if not _DEVICE.fullmatch(name):
        raise ValueError("devices are auto, cpu, cuda or cuda:1, mps, xpu")
    return name


Device = Annotated[str, AfterValidator(_check_device)]


def check_text(text: str) -> None:
    """Raises ValueError if text cannot be written to a file as UTF-8, or holds a NUL."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"not text: {error.reason} at character {error.start}") from None
    if "\0" in text:
        raise ValueError("text may not hold a NUL character")


def check_path(text: str) -> str:
    """Returns `text`; raises ValueError if no file system has such a path."""
    check_text(text)
    path = os.fsencode(text)
    if len(path) > _LONGEST_PATH or any(len(part) > _LONGEST_NAME for part in path.split(b"/")):
        raise ValueError(f"a path has at most {_LONGEST_PATH} bytes, and {_LONGEST_NAME} between two slashes")
    return text


PathText = Annotated[str, AfterValidator(check_path)]
"""Text that may be a path: a hub id, a folder or a file."""
