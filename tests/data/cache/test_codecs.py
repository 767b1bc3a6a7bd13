"""Damage of a chunk, told apart from a lack of memory, which Blosc reports in the same way."""

from __future__ import annotations

import numpy as np
import pytest

from saepipe.data.cache import codecs
from saepipe.data.errors import CorruptDataError

CHUNK = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def test_a_chunk_survives() -> None:
    out = np.empty_like(CHUNK)
    codecs.decode_into("lossless", memoryview(codecs.encode("lossless", CHUNK)), out)
    assert (out == CHUNK).all()


def test_a_damaged_chunk_is_corrupt_where_memory_can_be_had() -> None:
    data = bytearray(codecs.encode("lossless", CHUNK))
    data[16:80] = b"\xff" * 64
    with pytest.raises(CorruptDataError, match="cannot decode a chunk"):
        codecs.decode_into("lossless", memoryview(data), np.empty_like(CHUNK))


def test_a_sound_chunk_that_blosc_has_no_memory_for_is_not_called_corrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> bytes:
        raise RuntimeError("error during blosc decompression: -1")

    data = memoryview(codecs.encode("lossless", CHUNK))
    monkeypatch.setattr(codecs.blosc, "decompress", out_of_memory)
    with pytest.raises(MemoryError):
        codecs.decode_into("lossless", data, np.empty_like(CHUNK))
