"""Codec profiles, which turn chunks of rows into bytes: zarr v3 metadata, and the functions that it describes.

Every profile ends in crc32c: without it, Zstandard returns wrong data for a flipped bit in every reader we know.
Source: the zarr v3 specification.
"""

from __future__ import annotations

import struct
from typing import Literal

import crc32c
import numpy as np
from numcodecs import blosc
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, Crc32cCodec

from saepipe.data.errors import CorruptDataError

# Blosc's own threads would make the bytes depend on timing, and would compete with ours.
blosc.use_threads = False

Profile = Literal["none", "lossless", "int8"]
"""Encoding of the training rows; `int8` (`saepipe.data.cache.int8`) stores bytes, uncompressed as with `none`."""

SNR_FLOOR = 30.0
"""Default minimum in dB for the ordinary channels of `int8`: noise of a thousandth of the variance, against the
5 to 30 % that an SAE leaves unexplained. Centred int8 reaches 40 to 43; with only a scale per token, massive
channels leave 19."""

# zstd compresses blocks of 128 KB with one Huffman table each. From 512 KB on, Blosc's shuffled mantissa plane
# fills blocks of its own and is stored raw; the automatic block size does not achieve that.
_BLOCKSIZE = 1 << 20
_CRC = struct.Struct("<I")
_HEADER = struct.Struct("<BBBBIII")
"""Blosc's: its version, the version of the format within, flags, typesize, decoded bytes, block size, encoded bytes."""
_BLOSC_VERSION, _ZSTD_VERSION, _ZSTD = 2, 1, 4

MAX_RATIO = 1 << 16
"""Largest ratio of decoded to encoded bytes: a block of 1 MB of zeros takes about 50 bytes."""


def is_raw(profile: Profile) -> bool:
    """Returns whether a chunk is stored as the plain bytes of its array, usable in place."""
    return profile != "lossless"


def compressors(profile: Profile, itemsize: int) -> tuple[BytesBytesCodec, ...]:
    """The bytes-to-bytes codecs of an inner chunk, for zarr's metadata."""
    if is_raw(profile):
        return (Crc32cCodec(),)
    lossless = BloscCodec(typesize=itemsize, cname="zstd", clevel=1, shuffle="shuffle", blocksize=_BLOCKSIZE)
    return lossless, Crc32cCodec()


def encode(profile: Profile, chunk: np.ndarray) -> bytes:
    """Encodes a C-contiguous little-endian chunk as `compressors` describes."""
    chunk = np.ascontiguousarray(chunk)
    raw = is_raw(profile)
    data: bytes = chunk.tobytes() if raw else blosc.compress(chunk, b"zstd", 1, blosc.SHUFFLE, _BLOCKSIZE)
    return data + _CRC.pack(crc32c.crc32c(data))


def check(data: memoryview) -> bool:
    """Returns whether `data` ends in the crc32c of the bytes before it."""
    if len(data) < _CRC.size:
        return False
    expected: int = _CRC.unpack(data[-_CRC.size :])[0]
    return crc32c.crc32c(data[: -_CRC.size]) == expected


def decode_into(profile: Profile, data: memoryview, out: np.ndarray) -> None:
    """Decodes one encoded chunk into `out`, a C-contiguous array of the chunk's shape and type; no allocation.

    Raises:
        CorruptDataError: if the bytes are not such a chunk.
        MemoryError: if Blosc cannot have the memory that it works in.
    """
    body = data[: -_CRC.size]
    try:
        if is_raw(profile):
            out.reshape(-1).view(np.uint8)[:] = np.frombuffer(body, np.uint8)
        else:
            if problem := header_problem(body, out.itemsize, out.nbytes):
                raise ValueError(problem)
            blosc.decompress(body, out)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, RuntimeError) and not _blosc_can_decode(out.nbytes):
            raise MemoryError(f"Blosc cannot decode {out.nbytes:,} bytes") from None
        raise CorruptDataError(f"cannot decode a chunk of {len(data):,} bytes: {error}") from None


def _blosc_can_decode(num_bytes: int) -> bool:
    """Returns whether a sound chunk of this size can be decoded; Blosc reports a lack of memory as damage."""
    try:
        sound = blosc.compress(bytes(num_bytes), b"zstd", 1, blosc.SHUFFLE, _BLOCKSIZE)
        return len(blosc.decompress(sound)) == num_bytes
    except (MemoryError, RuntimeError):
        return False


def header_problem(body: memoryview, itemsize: int, num_bytes: int) -> str | None:
    """Returns what is wrong with the header of a lossless chunk that must decode to `num_bytes`; None if nothing is."""
    if len(body) < _HEADER.size:
        return "it is shorter than its header"
    version, inner, flags, typesize, nbytes, blocksize, cbytes = _HEADER.unpack(body[: _HEADER.size])
    if (version, inner, flags >> 5, typesize) != (_BLOSC_VERSION, _ZSTD_VERSION, _ZSTD, itemsize):
        return "it is not encoded by Zstandard within Blosc for this dtype"
    if nbytes != num_bytes or cbytes != len(body) or not 0 < blocksize <= nbytes:
        return f"it declares {cbytes:,} bytes that decode to {nbytes:,}, not {len(body):,} to {num_bytes:,}"
    return None
