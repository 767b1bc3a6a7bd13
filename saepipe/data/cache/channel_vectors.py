"""Statistics per channel as zarr-python stores them: one Zstandard frame. Read without trusting what it declares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numcodecs import zstd

from saepipe.data.cache.zarr_json import read_array
from saepipe.data.errors import CorruptDataError

_MAGIC = bytes.fromhex("28b52ffd")


def read_vector(folder: Path, size: int) -> np.ndarray:
    """Reads an array of `size` float32 numbers, stored as a single chunk; zeros have no file.

    Raises:
        CorruptDataError: if its zarr.json describes something else, or its file does not hold exactly that much.
    """
    array = read_array(folder / "zarr.json")
    if (array.shape, array.grid, array.dtype) != ((size,), (size,), "float32"):
        raise array.wrong(f"{list(array.shape)} {array.dtype} in chunks of {list(array.grid)}, not [{size}] float32")
    array.check_codecs(array.codecs, [array.bytes_codec, ("zstd", {})])
    values = np.zeros(size, "<f4")
    path = folder / "c" / "0"
    if not path.exists():
        return values
    if path.stat().st_size > 2 * values.nbytes + 64:
        raise CorruptDataError(f"{path} has {path.stat().st_size:,} bytes, for {size:,} numbers")
    data = path.read_bytes()
    if content_size(data) != values.nbytes:
        raise CorruptDataError(f"{path} does not declare {values.nbytes:,} bytes, as {size:,} numbers have")
    try:
        zstd.decompress(data, values)
    except (RuntimeError, ValueError) as error:
        raise CorruptDataError(f"{path} cannot be decoded: {error}") from None
    return values


def content_size(frame: bytes) -> int | None:
    """Returns the decoded size that a Zstandard frame declares; None if it declares none (RFC 8878, 3.1.1.1)."""
    if frame[:4] != _MAGIC or len(frame) < 6:
        return None
    descriptor = frame[4]
    single_segment = descriptor >> 5 & 1
    num_bytes = (single_segment, 2, 4, 8)[descriptor >> 6]
    start = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3]
    if not num_bytes or len(frame) < start + num_bytes:
        return None
    return int.from_bytes(frame[start : start + num_bytes], "little") + (256 if num_bytes == 2 else 0)
