"""A safetensors file as memory-mapped numpy arrays: data is read only when used, and never copied."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import numpy as np

from saepipe.data.errors import CorruptDataError

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}
_LENGTH = 8
"""Bytes before the header, which hold its length."""


def map_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Returns the file's arrays by name, read-only.

    Raises:
        CorruptDataError: if it is not a safetensors file, or shorter than its header says.
    """
    try:
        data = np.memmap(path, np.uint8, mode="r")
        start = _LENGTH + int.from_bytes(data[:_LENGTH].tobytes(), "little")
        header = json.loads(data[_LENGTH:start].tobytes())
        header.pop("__metadata__", None)
        return {name: _array(data[start:], **entry) for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptDataError(f"{path} is not a complete safetensors file ({error})") from error


def _array(data: np.ndarray, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    begin, end = data_offsets
    array = data[begin:end].view(_DTYPES[dtype])
    if len(array) != prod(shape):
        raise ValueError(f"{len(array):,} numbers, not {prod(shape):,}")
    return array.reshape(shape)
