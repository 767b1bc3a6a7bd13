"""Shard files: saepipe, zarr-python and tensorstore read the same values; damage to any byte is reported."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr

from helpers.made_caches import structured_rows, write_cache
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.codecs import Profile
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import CorruptDataError, SaepipeError

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module", params=["lossless", "none"])
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    profile: Profile = request.param
    folder = tmp_path_factory.mktemp("shards") / "cache"
    return write_cache(folder, {HOOK: structured_rows(3000, 24)}, profile=profile, shard_rows=1024, chunk_rows=256)


def read_all(folder: Path) -> np.ndarray:
    rows = Cache.open(folder).rows(HOOK)
    return rows.read(0, rows.num_rows)


def test_every_reader_gets_the_same_values(cache: Path) -> None:
    ours = read_all(cache)
    assert ours.shape == (3000, 24)
    by_zarr = zarr.open_group(cache, mode="r")[f"acts/{HOOK}"]
    assert isinstance(by_zarr, zarr.Array)
    assert by_zarr.attrs["logical_dtype"] == "bfloat16"
    store = {"driver": "file", "path": str(cache / "acts" / HOOK)}
    by_tensorstore = tensorstore.open({"driver": "zarr3", "kvstore": store}).result().read().result()
    np.testing.assert_array_equal(ours, by_zarr[...])
    np.testing.assert_array_equal(ours, by_tensorstore)


def test_rows_are_read_back_in_stored_order(cache: Path) -> None:
    opened = Cache.open(cache)
    contexts = MappedRows(cache, "context_id", opened.files).read(0, 3000)
    positions = MappedRows(cache, "position", opened.files).read(0, 3000)
    original = structured_rows(3000, 24).view(__import__("torch").int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(read_all(cache), original[contexts * 15 + positions - 1])


def test_uncompressed_chunks_are_views_of_the_file(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache", {HOOK: structured_rows(600, 24)}, profile="none")
    rows = Cache.open(folder).rows(HOOK)
    view = rows.view_chunk(1)
    assert not view.flags.writeable
    assert not view.flags.owndata
    np.testing.assert_array_equal(view, rows.read(256, 512))


def test_any_range_of_rows(cache: Path) -> None:
    whole, rows = read_all(cache), Cache.open(cache).rows(HOOK)
    for start, stop in [(0, 0), (0, 1), (255, 257), (1000, 2500), (2999, 3000)]:
        np.testing.assert_array_equal(rows.read(start, stop), whole[start:stop])


def test_each_flipped_bit_is_an_error_that_names_the_shard(cache: Path, tmp_path: Path) -> None:
    """60 random bits in the activations' shard files; bench/flips.py flips 200."""
    generator = np.random.default_rng(0)
    shards = sorted((cache / "acts" / HOOK / "c").rglob("0"))
    names = [path.relative_to(cache) for path in shards if path.is_file()]
    for flip in range(60):
        folder = tmp_path / str(flip)
        shutil.copytree(cache, folder)
        name = names[generator.integers(len(names))]
        data = bytearray((folder / name).read_bytes())
        data[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
        (folder / name).write_bytes(data)
        with pytest.raises(CorruptDataError) as caught:
            read_all(folder)
        assert str(folder / name) in str(caught.value)
        assert any(str(folder / name) in sentence for sentence in Cache.open(folder).damage())
        shutil.rmtree(folder)


@pytest.mark.parametrize("damage", ["missing", "empty", "short", "swapped", "long"])
def test_damaged_shards_are_named(cache: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(cache, folder)
    shard, other = (folder / "acts" / HOOK / "c" / number / "0" for number in "01")
    data = shard.read_bytes()
    if damage == "missing":
        shard.unlink()
    elif damage == "swapped":
        shard.write_bytes(other.read_bytes())
        other.write_bytes(data)
    else:
        shard.write_bytes({"empty": b"", "short": data[:-1], "long": data + b"x"}[damage])
    with pytest.raises(CorruptDataError) as caught:
        read_all(folder)
    assert str(shard) in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", [f"stats/{HOOK}/mean/c/0", f"acts/{HOOK}/zarr.json", "zarr.json"])
def test_changed_metadata_is_noticed_when_a_cache_is_opened(cache: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(cache, folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(CorruptDataError) as caught:
        Cache.open(folder)
    assert str(folder / name) in str(caught.value)


def test_a_changed_manifest_and_an_unfinished_cache_are_refused(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(cache, folder)
    manifest = folder / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"num_rows": 1024', '"num_rows": 1023', 1))
    with pytest.raises(SaepipeError, match="was changed after"):
        Cache.open(folder)
    (folder / "COMMITTED").unlink()
    with pytest.raises(SaepipeError, match="not finished"):
        Cache.open(folder)
    with pytest.raises(SaepipeError, match="does not exist"):
        Cache.open(tmp_path / "nowhere")
