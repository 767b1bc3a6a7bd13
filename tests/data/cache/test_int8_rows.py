"""An int8 cache on disk: read like any other cache, even by zarr-python; damaged files are named and refused."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from helpers.made_caches import structured_rows, write_cache
from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache import cache
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.channel_moments import Moments
from saepipe.data.cache.layout import Layout
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import ConfigError, CorruptDataError, HealthError
from saepipe.data.folders import artifact

HOOK = "blocks.1.hook_resid_post"
NUM_ROWS, D_IN = 3000, 40


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    x = structured_rows(NUM_ROWS, D_IN)
    x[:, 5] *= 300
    return x


@pytest.fixture(scope="module")
def folder(rows: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8") / "cache"
    return write_cache(out, {HOOK: rows}, profile="int8", shard_rows=1024, chunk_rows=256)


@pytest.fixture(scope="module")
def exact(rows: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lossless") / "cache"
    return write_cache(out, {HOOK: rows}, shard_rows=1024, chunk_rows=256)


def read_all(folder: Path) -> np.ndarray:
    rows = Cache.open(folder).rows(HOOK)
    return rows.read(0, rows.num_rows)


def test_plain_zarr_and_the_formula_give_the_same_bits(folder: Path) -> None:
    group = zarr.open_group(folder, mode="r")
    names = ("scale", "mean", "std", "outlier_index", "outlier_value")
    scale, mean, std, index, value = (np.asarray(group[f"int8/{HOOK}/{name}"][...]) for name in names)
    q = group[f"acts/{HOOK}"]
    assert q.shape == (NUM_ROWS, D_IN)
    assert q.dtype == np.int8
    assert "mean + std * (scale * q)" in q.attrs["reconstruct"]
    x = mean + std * (scale[:, None] * q[...])
    assert x.dtype == np.float32
    word = x.view(np.uint32)
    bits = ((word + 0x7FFF + (word >> 16 & 1)) >> 16).astype(np.uint16)  # to the nearest bfloat16, ties to even
    np.put_along_axis(bits, index.astype(np.int64), value, axis=1)
    np.testing.assert_array_equal(bits, read_all(folder))


def test_any_range_of_rows_and_zeros_after_the_last(folder: Path) -> None:
    whole, rows = read_all(folder), Cache.open(folder).rows(HOOK)
    for start, stop in [(0, 0), (0, 1), (255, 257), (1000, 2500), (2999, 3000)]:
        np.testing.assert_array_equal(rows.read(start, stop), whole[start:stop])
    chunk = np.full((256, D_IN), 9, np.uint16)
    rows.read_chunk(11, chunk)
    np.testing.assert_array_equal(chunk[: NUM_ROWS - 11 * 256], whole[11 * 256 :])
    assert (chunk[NUM_ROWS - 11 * 256 :] == 0).all()
    assert not rows.zero_copy


def test_statistics_and_norms_are_those_of_the_original_rows(folder: Path, exact: Path) -> None:
    ours, theirs = Cache.open(folder), Cache.open(exact)
    for name in ("mean", "std", "absmax"):
        np.testing.assert_array_equal(getattr(ours.stats(HOOK), name), getattr(theirs.stats(HOOK), name))
    norms = [MappedRows(c.path, f"norm/{HOOK}", c.files).read(0, NUM_ROWS) for c in (ours, theirs)]
    np.testing.assert_array_equal(*norms)


def test_channels_are_frozen_from_the_first_shard(folder: Path, exact: Path) -> None:
    first = Moments.of(Cache.open(exact).rows(HOOK).read(0, 1024))
    group = zarr.open_group(folder / "int8" / HOOK, mode="r")
    np.testing.assert_array_equal(group["mean"][...], first.mean.astype(np.float32))
    np.testing.assert_array_equal(group["std"][...], first.std.astype(np.float32))


def test_the_snr_matches_the_rows_that_are_read(folder: Path, exact: Path) -> None:
    x, x_hat = (
        torch.from_numpy(read_all(path).view(np.int16)).view(torch.bfloat16).double() for path in (exact, folder)
    )
    snr = Cache.open(folder).attributes["int8_snr_db"][HOOK]
    assert snr["num_massive"] == 1
    signal, noise = ((x - x.mean(0)) ** 2).sum(0), ((x - x_hat) ** 2).sum(0)
    ordinary = torch.arange(D_IN) != 5
    assert snr["total"] == pytest.approx(10 * torch.log10(signal.sum() / noise.sum()).item(), abs=2e-3)
    expected = 10 * torch.log10(signal[ordinary].sum() / noise[ordinary].sum()).item()
    assert snr["ordinary"] == pytest.approx(expected, abs=2e-3)


def batches_of(folder: Path) -> np.ndarray:
    with BatchStream(Cache.open(folder), HOOK, 300, seed=1, pool_chunks=5) as stream:
        x = torch.cat(list(islice(stream.batches(), 15)))
    return x.view(torch.int16).numpy().view(np.uint16)


def test_batches_match_those_of_the_exact_cache_row_by_row(folder: Path, exact: Path) -> None:
    number = {row.tobytes(): index for index, row in enumerate(read_all(exact))}
    assert len(number) == NUM_ROWS
    order = [number[row.tobytes()] for row in batches_of(exact)]
    np.testing.assert_array_equal(batches_of(folder), read_all(folder)[order])


def sharded(folder: Path) -> list[str]:
    """Names of the files that encode activations."""
    files = Cache.open(folder).files
    return [name for name in files if name.startswith((f"acts/{HOOK}/c/", f"int8/{HOOK}/")) and "/c/" in name]


def test_each_shard_line_lists_all_files_of_its_rows(folder: Path) -> None:
    names = ("scale", "outlier_index", "outlier_value", "noise")
    for line in (line for line in Cache.open(folder).lines if line["kind"] == "shard"):
        listed = {name.split("/")[2] for name in line["files"] if name.startswith(f"int8/{HOOK}/")}
        assert listed == {*names, *(("mean", "std") if line["shard"] == 0 else ())}
    assert len(sharded(folder)) == 3 * 5 + 2


def damage(path: Path, how: str) -> bytes:
    """Damages one file; returns its original contents."""
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "short":
        path.write_bytes(data[:-1])
    elif how == "flipped":
        path.write_bytes(data[:9] + bytes([data[9] ^ 4]) + data[10:])
    else:  # swapped: the file of another shard
        head, tail = str(path).split("/c/")
        path.write_bytes(Path(f"{head}/c/{(int(tail[0]) + 1) % 2}{tail[1:]}").read_bytes())
    return data


def read_all_and_noise(folder: Path) -> None:
    read_all(folder)
    noise = MappedRows(folder, f"int8/{HOOK}/noise", Cache.open(folder).files)
    noise.read(0, noise.num_rows)


@pytest.mark.parametrize("how", ["missing", "short", "flipped", "swapped"])
def test_each_damaged_file_is_named(folder: Path, tmp_path: Path, how: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "cache")
    single = () if how != "swapped" else (f"int8/{HOOK}/mean", f"int8/{HOOK}/std")
    for path in (copy / name for name in sharded(copy) if not name.startswith(single)):
        data = damage(path, how)
        with pytest.raises(CorruptDataError) as caught:
            read_all_and_noise(copy)
        assert str(path) in str(caught.value)
        sentences = list(artifact.damaged_files(copy, artifact.read_manifest(copy)))
        assert len(sentences) == 1
        assert str(path) in sentences[0]
        path.write_bytes(data)
    read_all_and_noise(copy)


def test_a_reader_that_predates_int8_refuses_it(folder: Path, exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "FORMAT_VERSION", 1)
    assert Cache.open(exact).attributes["format_version"] == 1
    with pytest.raises(ConfigError, match="format version 2"):
        Cache.open(folder)


@pytest.mark.parametrize("pool_shards", [1, 3])
def test_a_cache_below_the_floor_is_not_sealed(rows: torch.Tensor, tmp_path: Path, pool_shards: int) -> None:
    out, sizes = tmp_path / "cache", {"shard_rows": 1024, "chunk_rows": 256, "pool_shards": pool_shards}
    with pytest.raises(HealthError, match=r"loses too much at blocks\.1.*the floor is 90 dB") as caught:
        write_cache(out, {HOOK: rows}, profile="int8", snr_floor=90, **sizes)
    assert caught.value.exit_code == 8
    assert not artifact.is_committed(out)
    with pytest.raises(CorruptDataError, match="not finished"):
        Cache.open(out)
    pools = [line for line in artifact.read_manifest(out) if line["kind"] == "pool"]
    assert len(pools) == 1  # refused after the first pool, not at the end


def test_a_row_too_short_for_its_outliers_is_refused() -> None:
    with pytest.raises(ConfigError, match="keeps 16 entries of each row exact, but a row has only 16"):
        Layout({HOOK: 16}, 128, 1024, 256, "int8")
    assert Layout({HOOK: 16}, 128, 1024, 256, "lossless").format_version == 1
