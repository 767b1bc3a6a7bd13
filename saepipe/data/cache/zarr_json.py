"""The zarr.json files of a cache, read and checked before anything is allocated for what they declare.

A cache may come from anywhere, so nothing here goes through zarr-python: shapes, chunks, shards, dtype and codecs must
be of the kinds that this package writes, and no chunk may be larger than a reader can be asked to hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from saepipe.data.cache.codecs import Profile, is_raw
from saepipe.data.errors import CorruptDataError

MAX_CHUNK_BYTES = 1 << 30
"""Decoded size of a chunk; Blosc's own limit is twice that."""
_MAX_JSON_BYTES = 1 << 24
_MOST_ROWS = 1 << 50
_DTYPES = frozenset({"bool", "uint16", "uint32", "int8", "int32", "int64", "float32", "float64"})
_LITTLE_ENDIAN = ("bytes", {"endian": "little"})
_CRC32C: tuple[str, dict[str, Any]] = ("crc32c", {})

Codecs = Sequence[tuple[str, Mapping[str, Any]]]
"""Name of each codec, and the settings that it must have."""


@dataclass(frozen=True)
class ArrayJson:
    """What a zarr.json says of an array."""

    path: Path
    shape: tuple[int, ...]
    dtype: str
    grid: tuple[int, ...]
    """Shape of what one file holds."""
    codecs: Any
    attributes: dict[str, Any]

    @property
    def bytes_codec(self) -> tuple[str, Mapping[str, Any]]:
        """The first codec; the byte order of single bytes need not be named."""
        return _LITTLE_ENDIAN if np.dtype(self.dtype).itemsize > 1 else ("bytes", {})

    def wrong(self, problem: str) -> CorruptDataError:
        return CorruptDataError(f"{self.path}: {problem}", hint=_HINT)

    def check_codecs(self, stored: Any, expected: Codecs) -> None:
        """Raises CorruptDataError unless `stored` is the list of the expected codecs, with their settings."""
        names = [entry.get("name") if isinstance(entry, dict) else entry for entry in _list(stored)]
        if names != [name for name, _ in expected]:
            raise self.wrong(f"codecs {_short(names)}, not {', '.join(name for name, _ in expected)}")
        for entry, (name, settings) in zip(stored, expected, strict=True):
            for key, value in settings.items():
                if (other := _settings(entry, name).get(key)) != value:
                    raise self.wrong(f"{key} of codec {name} is {_short(other)}, not {value!r}")


@dataclass(frozen=True)
class RowArrayJson:
    """What a zarr.json says of a row array: one file per shard of `shard_rows`, in chunks of `chunk_rows`."""

    num_rows: int
    dtype: str
    row_shape: tuple[int, ...]
    shard_rows: int
    chunk_rows: int
    profile: Profile
    attributes: dict[str, Any]


_HINT = "saepipe cache verify lists all damage; if it finds none, the cache was made to deceive"


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object; raises CorruptDataError if the file is missing, too large, or holds something else."""
    try:
        size = path.stat().st_size
        value = json.loads(path.read_bytes()) if size <= _MAX_JSON_BYTES else f"{size:,} bytes"
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptDataError(f"{path} is not JSON: {str(error)[:200]}", hint=_HINT) from None
    if not isinstance(value, dict):
        raise CorruptDataError(f"{path} holds {_short(value)}, not an object", hint=_HINT)
    return value


def group_attributes(folder: Path) -> dict[str, Any]:
    """Returns the attributes that describe a cache; raises CorruptDataError if its zarr.json has none."""
    attributes = read_object(folder / "zarr.json").get("attributes")
    ours = attributes.get("saepipe") if isinstance(attributes, dict) else None
    if not isinstance(ours, dict):
        raise CorruptDataError(f"{folder / 'zarr.json'} does not describe a cache: it has no attributes of saepipe")
    return ours


def read_array(path: Path) -> ArrayJson:
    """Reads the zarr.json of any array of a cache.

    Raises:
        CorruptDataError: if it is missing, or is not that of a zarr v3 array of a kind that saepipe writes.
    """
    raw = read_object(path)
    array = ArrayJson(path, (), "", (), raw.get("codecs"), {})
    if raw.get("zarr_format") != 3 or raw.get("node_type") != "array":
        raise array.wrong("it does not describe a zarr v3 array")
    dtype, attributes, fill = raw.get("data_type"), raw.get("attributes"), raw.get("fill_value")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise array.wrong(f"data_type {_short(dtype)} is none that saepipe writes")
    if not isinstance(attributes, dict):
        raise array.wrong(f"attributes {_short(attributes)} are not an object")
    if not isinstance(fill, int | float) or fill != 0:
        raise array.wrong(f"fill_value {_short(fill)}, not 0")
    if _settings(raw.get("chunk_key_encoding"), "default").get("separator", "/") != "/":
        raise array.wrong("its files have other names than saepipe gives them")
    shape = _sizes(array, "shape", raw.get("shape"), least=0)
    grid = _sizes(array, "chunk_shape", _settings(raw.get("chunk_grid"), "regular").get("chunk_shape"), least=1)
    if len(grid) != len(shape):
        raise array.wrong(f"shape {list(shape)} has another number of axes than chunk_shape {list(grid)}")
    return ArrayJson(path, shape, dtype, grid, raw.get("codecs"), attributes)


def read_row_array(path: Path) -> RowArrayJson:
    """Reads the zarr.json of a row array.

    Raises:
        CorruptDataError: as `read_array` does; or if shards, chunks and codecs are not those of a row array.
    """
    array = read_array(path)
    array.check_codecs(array.codecs, [("sharding_indexed", {"index_location": "end"})])
    shard = _settings(array.codecs[0], "sharding_indexed")
    array.check_codecs(shard.get("index_codecs"), [_LITTLE_ENDIAN, _CRC32C])
    chunk = _sizes(array, "chunk_shape of a shard", shard.get("chunk_shape"), least=1)
    row_shape = array.shape[1:]
    if not array.shape or array.grid[1:] != row_shape or chunk[1:] != row_shape or len(chunk) != len(array.shape):
        raise array.wrong(f"shards {list(array.grid)} or chunks {list(chunk)} do not hold rows of {list(array.shape)}")
    if array.grid[0] % chunk[0]:
        raise array.wrong(f"a shard of {array.grid[0]:,} rows does not hold whole chunks of {chunk[0]:,}")
    itemsize = np.dtype(array.dtype).itemsize
    if (size := math.prod(chunk) * itemsize) > MAX_CHUNK_BYTES:
        raise array.wrong(f"a chunk of {size:,} bytes, more than {MAX_CHUNK_BYTES:,}")
    attributes = dict(array.attributes)
    profile = attributes.pop("saepipe_profile", None)
    if profile not in get_args(Profile):
        raise array.wrong(f"saepipe_profile {_short(profile)} is none of {', '.join(get_args(Profile))}")
    blosc = [] if is_raw(profile) else [("blosc", {"cname": "zstd", "shuffle": "shuffle", "typesize": itemsize})]
    array.check_codecs(shard.get("codecs"), [array.bytes_codec, *blosc, _CRC32C])
    return RowArrayJson(array.shape[0], array.dtype, row_shape, array.grid[0], chunk[0], profile, attributes)


def _sizes(array: ArrayJson, name: str, value: Any, least: int) -> tuple[int, ...]:
    """Returns a shape; raises CorruptDataError unless it is a short list of whole numbers of at least `least`."""
    sizes = _list(value)
    if not 1 <= len(sizes) <= 4 or not all(type(size) is int and least <= size <= _MOST_ROWS for size in sizes):
        raise array.wrong(f"{name} {_short(value)} is not a list of numbers from {least} to {_MOST_ROWS:,}")
    return tuple(sizes)


def _settings(entry: Any, name: str) -> Mapping[str, Any]:
    """Returns the configuration of zarr's `{"name": ..., "configuration": ...}`; empty if it has another name."""
    settings = entry.get("configuration") if isinstance(entry, dict) and entry.get("name") == name else None
    return settings if isinstance(settings, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
