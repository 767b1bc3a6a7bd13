"""Caches made to deceive: their seals fit, but what they declare would fill memory, or is none of ours.

Each test runs with little memory, so that whoever believes the declaration before checking it fails.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
import pytest
from numcodecs import blosc, zstd

from helpers.made_caches import structured_rows, write_cache
from helpers.resealed import change_json, limited_memory, replace_file, reseal
from saepipe.cli import main
from saepipe.data.cache import codecs
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.channel_vectors import content_size
from saepipe.data.cache.repair import repair
from saepipe.data.cache.shards import RowArray, describe_shard
from saepipe.data.errors import CorruptDataError

pytestmark = pytest.mark.quick

HOOK = "blocks.1.hook_resid_post"
ACTS = f"acts/{HOOK}"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = {HOOK: structured_rows(600, 24)}
    return write_cache(tmp_path_factory.mktemp("made") / "cache", rows, shard_rows=512, chunk_rows=128)


@pytest.fixture(scope="module")
def made_int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = {HOOK: structured_rows(600, 24)}
    folder = tmp_path_factory.mktemp("made") / "int8"
    return write_cache(folder, rows, shard_rows=512, chunk_rows=128, profile="int8", snr_floor=0)


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Iterator[Path]:
    folder = Path(shutil.copytree(made, tmp_path / "cache"))
    with limited_memory():
        yield folder


def use(folder: Path) -> None:
    """Reads everything that a training reads."""
    opened = Cache.open(folder)
    rows = opened.rows(HOOK)
    rows.read(0, rows.num_rows)
    opened.stats(HOOK)


def put(value: Json, path: str, new: object) -> None:
    *parents, last = path.split(".")
    for part in parents:
        value = value[int(part) if isinstance(value, list) else part]
    value[int(last) if isinstance(value, list) else last] = new


SHARD, CHUNK = "chunk_grid.configuration.chunk_shape", "codecs.0.configuration.chunk_shape"
INNER = "codecs.0.configuration.codecs"
BAD_METADATA: dict[str, list[tuple[str, object]]] = {
    "a negative shape": [("shape", [-600, 24])],
    "a huge shape": [("shape", [2**40, 24])],
    "more rows than the manifest lists": [("shape", [1000, 24])],
    "fewer rows than the manifest lists": [("shape", [500, 24])],
    "a huge row": [("shape", [600, 2**40]), (SHARD, [512, 2**40]), (CHUNK, [128, 2**40])],
    "a row of another width": [("shape", [600, 23]), (SHARD, [512, 23]), (CHUNK, [128, 23])],
    "a shape of another rank": [("shape", [600])],
    "a shape of numbers that are not whole": [("shape", [600.5, 24])],
    "a chunk of zero rows": [(CHUNK, [0, 24])],
    "a huge chunk": [(CHUNK, [2**31, 24]), (SHARD, [2**31, 24])],
    "a chunk that does not divide its shard": [(CHUNK, [100, 24])],
    "a shard of zero rows": [(SHARD, [0, 24])],
    "a huge shard": [(SHARD, [2**40, 24])],
    "float64": [("data_type", "float64")],
    "a dtype of objects": [("data_type", "object")],
    "a dtype that is not text": [("data_type", {"name": "numpy.datetime64"})],
    "an unknown codec": [(INNER, [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "pickle"}])],
    "no checksum": [(f"{INNER}.2", {"name": "gzip", "configuration": {"level": 1}})],
    "another compressor": [(f"{INNER}.1.configuration.cname", "lz4")],
    "the other byte order": [(f"{INNER}.0.configuration.endian", "big")],
    "no shards": [("codecs", [{"name": "bytes", "configuration": {"endian": "little"}}])],
    "an odd fill value": [("fill_value", 7)],
    "a fill value that is no number": [("fill_value", "NaN")],
    "a missing profile": [("attributes", {})],
    "a profile that its codecs are not": [("attributes.saepipe_profile", "none")],
    "attributes that are a list": [("attributes", [])],
    "another kind of node": [("node_type", "group")],
}


@pytest.mark.parametrize("kind", BAD_METADATA)
def test_bad_metadata_of_an_array(cache: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    change_json(cache, f"{ACTS}/zarr.json", lambda value: [put(value, *change) for change in BAD_METADATA[kind]])
    with pytest.raises(CorruptDataError) as caught:
        use(cache)
    assert ACTS in str(caught.value)
    assert main(["cache", "info", str(cache)]) == 4
    assert "a bug in saepipe" not in capsys.readouterr().err


def test_chunks_of_the_largest_size_that_a_file_might_decode_to(cache: Path) -> None:
    """0.8 GB each: the chunks' own headers say less, and are read before memory is asked for."""
    change_json(cache, f"{ACTS}/zarr.json", lambda value: [put(value, key, [2**24, 24]) for key in (SHARD, CHUNK)])
    with pytest.raises(CorruptDataError, match="chunk 0 that cannot be decoded|impossible index|damaged index"):
        Cache.open(cache).rows(HOOK).read(0, 1)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"[" * 5000, b"\xff\xfe", b'{"zarr_format": 3}'])
@pytest.mark.parametrize("name", ["zarr.json", f"{ACTS}/zarr.json", f"stats/{HOOK}/std/zarr.json"])
def test_metadata_that_is_none(cache: Path, name: str, text: bytes) -> None:
    replace_file(cache, name, text)
    with pytest.raises(CorruptDataError, match=name.replace(".", r"\.")):
        use(cache)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hooks", []),
        ("hooks", "blocks"),
        ("hooks", ["../../elsewhere"]),
        ("hooks", [3]),
        ("d_in", 2**40),
        ("d_in", -1),
        ("d_in", "24"),
        ("d_in", True),
        ("context_size", 0),
        ("num_heldout_contexts", None),
        ("format_version", "1"),
        ("model", "toy"),
        ("config", None),
        ("config", {"chunk_rows": 64}),
    ],
)
def test_attributes_that_do_not_describe_a_cache(cache: Path, key: str, value: object) -> None:
    change_json(cache, "zarr.json", lambda group: group["attributes"]["saepipe"].update({key: value}))
    with pytest.raises(CorruptDataError):
        use(cache)


def test_missing_attributes(cache: Path) -> None:
    change_json(cache, "zarr.json", lambda group: group["attributes"].clear())
    with pytest.raises(CorruptDataError, match="it has no attributes of saepipe"):
        use(cache)
    with pytest.raises(CorruptDataError, match="cannot be repaired"):
        repair(cache)


@pytest.mark.parametrize(
    ("shape", "change"),
    [
        ("a huge vector", [("shape", [2**40]), ("chunk_grid.configuration.chunk_shape", [2**40])]),
        ("float64", [("data_type", "float64")]),
        ("another compressor", [("codecs.1", {"name": "gzip", "configuration": {"level": 1}})]),
    ],
)
def test_bad_metadata_of_the_statistics(cache: Path, shape: str, change: list[tuple[str, object]]) -> None:
    name = f"stats/{HOOK}/std/zarr.json"
    change_json(cache, name, lambda value: [put(value, *item) for item in change])
    with pytest.raises(CorruptDataError, match="std"):
        use(cache)


@pytest.mark.parametrize("size", [96 + 4, 92, 1 << 22])
def test_a_statistic_that_decodes_to_another_size(cache: Path, size: int) -> None:
    replace_file(cache, f"stats/{HOOK}/std/c/0", zstd.compress(bytes(size)))
    with pytest.raises(CorruptDataError, match=r"std/c/0"):
        use(cache)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_791, 65_792, 1 << 20])
def test_the_declared_size_of_a_frame(size: int) -> None:
    frame = zstd.compress(bytes(size))
    assert content_size(frame) == size
    assert content_size(b"") is content_size(frame[:5]) is content_size(b"x" * 20) is None


def shard_of(chunk: bytes, array: RowArray) -> bytes:
    """A shard whose first chunk is `chunk`, with a valid checksum and index."""
    encoded = chunk + codecs._CRC.pack(crc32c.crc32c(chunk))
    index = b"".join(np.array([[0, len(encoded)]], "<u8").tobytes() for _ in range(array.chunks_per_shard))
    return encoded + index + codecs._CRC.pack(crc32c.crc32c(index))


def bomb() -> bytes:
    """16 MB of zeros in a chunk that should hold 6 KB; harmless, but no reader may decode it."""
    return bytes(blosc.compress(np.zeros(1 << 23, "uint16"), b"zstd", 1, blosc.SHUFFLE, 1 << 20))


def declared(num_bytes: int) -> bytes:
    """A chunk whose header declares that many bytes."""
    chunk = bytearray(blosc.compress(np.arange(128 * 24, dtype="uint16"), b"zstd", 1, blosc.SHUFFLE, 1 << 20))
    chunk[4:8] = num_bytes.to_bytes(4, "little")
    return bytes(chunk)


@pytest.mark.parametrize(
    "chunk",
    [bomb(), declared(2**31 - 1), declared(16), b"x" * 40, b""],
    ids=["bomb", "huge", "small", "other", "empty"],
)
def test_a_chunk_that_decodes_to_another_size(cache: Path, chunk: bytes) -> None:
    array, _ = RowArray.open(cache, ACTS)
    data = shard_of(chunk, array)
    replace_file(cache, array.file(0), data, **describe_shard(array, data))
    with pytest.raises(CorruptDataError, match=r"c/0/0"):
        use(cache)


@pytest.mark.parametrize("entry", [(0, 2**62), (2**62, 100), (2**64 - 2, 1), (0, 0), (5, 3)])
def test_an_index_that_points_elsewhere(cache: Path, entry: tuple[int, int]) -> None:
    array, _ = RowArray.open(cache, ACTS)
    data = bytearray((cache / array.file(0)).read_bytes())
    start = len(data) - array.index_bytes
    data[start : start + 16] = np.array(entry, "<u8").tobytes()
    data[-4:] = codecs._CRC.pack(crc32c.crc32c(bytes(data[start:-4])))
    replace_file(cache, array.file(0), bytes(data))
    with pytest.raises(CorruptDataError, match=r"c/0/0"):
        use(cache)


def test_an_int8_row_that_names_a_channel_it_does_not_have(made_int8: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made_int8, tmp_path / "cache"))
    use(folder)
    array, _ = RowArray.open(folder, f"int8/{HOOK}/outlier_index")
    data = array.encode(np.full((512, array.row_shape[0]), 24, "uint16"))
    replace_file(folder, array.file(0), data, **describe_shard(array, data))
    with limited_memory(), pytest.raises(CorruptDataError, match="names a channel that its rows do not have"):
        use(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.pop("num_rows"),
        lambda line: line.update(num_rows=-1),
        lambda line: line.update(shard="0"),
        lambda line: line.update(split="test"),
        lambda line: line.update(kind=["shard"]),
        lambda line: line.pop("files"),
        lambda line: [entry.pop("chunks") for entry in line["files"].values()],
    ],
)
def test_lines_that_are_not_of_a_cache(cache: Path, change: Callable[[Json], object]) -> None:
    reseal(cache, lambda lines: change(lines[0]))
    for read in (use, repair):
        with pytest.raises(CorruptDataError, match="line 1 is not a line of a cache"):
            read(cache)


def test_an_undamaged_cache_is_read(cache: Path, made: Path) -> None:
    use(cache)
    assert json.loads((cache / "zarr.json").read_text()) == json.loads((made / "zarr.json").read_text())
