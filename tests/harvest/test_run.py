"""The harvest end to end on the toy model: storing, resuming, extending and refusing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Condition
from typing import Any

import numpy as np
import pytest
import torch

from helpers.interrupted_harvests import Crash, changed, contents, crash_after
from helpers.late_copies import LateCopies
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.layout import Split
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.cache.writer import CacheWriter, RowPool
from saepipe.data.errors import ConfigError, CorruptDataError, LockedError
from saepipe.data.folders import artifact
from saepipe.data.terminal.progress import Silent
from saepipe.harvest.capture import capture
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.decoder_layers import decoder_layers
from saepipe.harvest.model import load_model
from saepipe.harvest.plan import plan
from saepipe.harvest.row_source import RowSource
from saepipe.harvest.rows import PendingRows, WindowBatch
from saepipe.harvest.run import harvest


def test_rows_are_the_models_own_activations(toy_cache: Path, toy_config: HarvestConfig) -> None:
    """Compares a hundred training rows, and four held-out contexts, with forward passes of their contexts."""
    cache, lm = Cache.open(toy_cache), load_model(toy_config.model)
    hook = toy_config.hooks[1]
    contexts, keep, context_id, position = (
        MappedRows(toy_cache, name, cache.files) for name in ("contexts", "keep", "context_id", "position")
    )
    assert keep.read(0, keep.num_rows).sum() >= cache.num_tokens
    rows = torch.from_numpy(cache.rows(hook).read(0, 100).view(np.int16)).view(torch.bfloat16)
    row_contexts, row_positions = context_id.read(0, 100), position.read(0, 100).tolist()
    ids = torch.from_numpy(np.stack([contexts.read(i, i + 1)[0] for i in row_contexts])).long()
    x = capture(lm.model, ids, toy_config.hook_points)[hook]
    torch.testing.assert_close(
        rows.float(), x[torch.arange(100), row_positions].bfloat16().float(), rtol=0.02, atol=0.05
    )
    assert not np.isin(ids[torch.arange(100), row_positions].numpy(), list(lm.special_ids)).any()

    heldout = cache.heldout
    x = capture(lm.model, torch.from_numpy(heldout.contexts[:4]).long(), toy_config.hook_points)[hook]
    torch.testing.assert_close(heldout.activations(hook, 0, 4).float(), x.bfloat16().float(), rtol=0.02, atol=0.05)
    assert (heldout.contexts[:, 0] == lm.bos_id).all()
    assert not heldout.keep[:, 0].any()


def test_each_ordinary_token_is_stored_once(toy_cache: Path) -> None:
    cache = Cache.open(toy_cache)
    context, position = (
        MappedRows(toy_cache, name, cache.files).read(0, cache.num_tokens) for name in ("context_id", "position")
    )
    assert cache.num_tokens == 12_000
    assert len(set(zip(context.tolist(), position.tolist(), strict=True))) == 12_000
    assert not np.all(np.diff(context) >= 0)  # shuffled within a pool
    assert context[:4096].max() < context[4096:8192].max() < context[8192:].max()


def test_training_and_heldout_documents_are_disjoint(toy_cache: Path) -> None:
    cache = Cache.open(toy_cache)
    documents = MappedRows(toy_cache, "documents", cache.files)
    train = set(documents.read(0, documents.num_rows).ravel().tolist())
    assert train.isdisjoint(set(cache.heldout.documents.ravel().tolist()))


@pytest.mark.parametrize("batches", [1, 4, 7])
def test_a_crash_costs_one_pool_and_changes_no_byte(
    toy_cache: Path, toy_config: HarvestConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    out = tmp_path / "cache"
    crash_after(monkeypatch, batches)
    with pytest.raises(Crash):
        harvest(toy_config, out)
    monkeypatch.undo()
    with (out / artifact.MANIFEST).open("a") as file:
        file.write('{"kind": "shard", "torn')
    (out / "acts" / toy_config.hooks[0] / "c").mkdir(parents=True, exist_ok=True)
    (out / "acts" / toy_config.hooks[0] / "c" / "7.partial").write_bytes(b"half a shard")
    harvest(toy_config, out)
    assert contents(out) == contents(toy_cache)


def test_a_crash_at_the_first_files_can_be_resumed(
    toy_cache: Path, toy_config: HarvestConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "cache"
    for write in ("write_json", "rewrite_manifest"):

        def crash(*_: object) -> None:
            (out / "zarr.json.partial").write_bytes(b"half a file")
            raise Crash

        monkeypatch.setattr(artifact, write, crash)
        with pytest.raises(Crash):
            harvest(toy_config, out)
        monkeypatch.undo()
    harvest(toy_config, out)
    assert contents(out) == contents(toy_cache)


def test_a_killed_process_is_resumed(toy_cache: Path, toy_config: HarvestConfig, tmp_path: Path) -> None:
    out, config = tmp_path / "cache", tmp_path / "c.yaml"
    config.write_text(toy_config.to_yaml())
    command = [
        sys.executable,
        "-m",
        "saepipe.cli",
        "harvest",
        "-c",
        str(config),
        "--out",
        str(out),
        "--format",
        "quiet",
    ]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    manifest = out / artifact.MANIFEST
    while process.poll() is None and not (manifest.exists() and manifest.stat().st_size):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    harvest(toy_config, out)
    assert contents(out) == contents(toy_cache)


def test_an_extended_cache_equals_one_made_in_a_single_harvest(
    toy_cache: Path, toy_config: HarvestConfig, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    harvest(changed(toy_config, num_tokens=5000, heldout_tokens=1000), out)
    assert Cache.open(out).num_tokens == 5000
    first = (out / "acts" / toy_config.hooks[0] / "c" / "0" / "0").stat().st_mtime_ns
    harvest(toy_config, out)
    assert contents(out) == contents(toy_cache)
    assert (out / "acts" / toy_config.hooks[0] / "c" / "0" / "0").stat().st_mtime_ns == first  # not made again


def test_folders_that_do_not_fit_the_config_are_refused(
    toy_cache: Path, toy_config: HarvestConfig, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    shutil.copytree(toy_cache, out)
    before = contents(out)
    with pytest.raises(ConfigError, match=r"context_size: 128 -> 64"):
        harvest(changed(toy_config, context_size=64), out)
    with pytest.raises(ConfigError, match="can be extended, not shortened"):
        harvest(changed(toy_config, num_tokens=100), out)
    with pytest.raises(ConfigError, match="holds a cache already"):
        harvest(toy_config, out, resume="never")
    with pytest.raises(ConfigError, match="nothing to resume"):
        harvest(toy_config, tmp_path / "empty", resume="must")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="is not a cache"):
        harvest(toy_config, tmp_path / "other")
    with artifact.writer_lock(out), pytest.raises(LockedError):
        harvest(toy_config, out)
    assert harvest(toy_config, out).fingerprint == Cache.open(toy_cache).fingerprint
    assert contents(out) == before


def test_a_corpus_that_is_too_short_is_reported(toy_config: HarvestConfig, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text(
        "\n\n".join(f"The tale of the {i} apples went on and on until the sun went down." for i in range(99))
    )
    config = changed(toy_config, dataset={"source": str(text)}, batch_size=4)
    progress = Silent()
    cache = harvest(config, tmp_path / "cache", progress=progress)
    assert 0 < cache.num_tokens < 12_000
    assert any("the corpus ended" in sentence and "of 12,000 requested" in sentence for sentence in progress.said)
    with pytest.raises(ConfigError, match="does not fill one training window"):
        harvest(changed(config, context_size=512, heldout_share=0.9), tmp_path / "none")


def test_the_heldout_part_can_be_filled_by_text_behind_the_last_row(
    toy_cache: Path, toy_config: HarvestConfig, tmp_path: Path
) -> None:
    filled, whole = (
        harvest(changed(toy_config, num_tokens=4096, fill_heldout=True), tmp_path / "cache"),
        Cache.open(toy_cache),
    )
    assert len(whole.heldout.contexts) < len(filled.heldout.contexts) == 3000 // 128
    for name in ("contexts", "documents", "keep"):  # the whole cache holds those within its text
        ours, theirs = (getattr(cache.heldout, name) for cache in (filled, whole))
        assert np.array_equal(ours[: len(theirs)], theirs), name
    assert np.array_equal(filled.rows(filled.hooks[0]).read(0, 4096), whole.rows(filled.hooks[0]).read(0, 4096))
    assert filled.array("contexts").num_rows == 48  # training windows of the rows, in three batches, and no others
    assert "fill_heldout" not in toy_config.to_dict()


def test_documents_without_a_value_are_counted(toy_config: HarvestConfig, tmp_path: Path) -> None:
    """Only those before the end of the text that was used, however far the reader was ahead."""
    path = tmp_path / "ids.jsonl"
    rows = [{"text": None if i % 10 == 3 else list(range(10, 110))} for i in range(400)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = {"source": str(path), "tokenised": True, "nulls": "skip"}
    progress, sizes = Silent(), {"num_tokens": 3000, "heldout_tokens": 0, "heldout_share": 0.0, "batch_size": 4}
    cache = harvest(changed(toy_config, dataset=dataset, **sizes), tmp_path / "cache", progress=progress)
    documents = MappedRows(cache.path, "documents", cache.files)
    last = int(documents.read(0, documents.num_rows).max())
    num_nulls = sum(i % 10 == 3 for i in range(last + 1))
    assert f"left out {num_nulls} of {last + 1} documents, which have no value" in progress.said


def test_a_text_of_special_tokens_alone_is_refused(toy_config: HarvestConfig, tmp_path: Path) -> None:
    path = tmp_path / "ids.jsonl"
    path.write_text((json.dumps({"text": [1] * 500}) + "\n") * 20)
    config = changed(toy_config, dataset={"source": str(path), "tokenised": True}, heldout_share=0.0)
    with pytest.raises(ConfigError, match="hold nothing but special tokens"):
        harvest(config, tmp_path / "cache")


def test_a_nan_error_names_document_and_position(
    toy_config: HarvestConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: Any) -> Any:
        lm = load_model(config)

        def spoil(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
            output[3:4, 17] = torch.nan
            return output

        decoder_layers(lm.model)[1].register_forward_hook(spoil)
        return lm

    monkeypatch.setattr("saepipe.harvest.run.load_model", broken)
    with pytest.raises(CorruptDataError, match=r"NaN or Inf at blocks\.1.*: document \d+, context 3, position 17"):
        harvest(toy_config, tmp_path / "cache")


def test_passes_go_on_while_a_pool_waits_to_be_written(
    toy_cache: Path, toy_config: HarvestConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool is not put before a pass has ended that began after those of its own rows."""
    start, put, ended = RowSource.start, CacheWriter.put, 0
    went_on = Condition()

    def counted_start(self: RowSource, batch: WindowBatch, split: Split) -> PendingRows:
        nonlocal ended
        rows = start(self, batch, split)
        with went_on:
            ended += 1
            went_on.notify_all()
        return rows

    def late_put(self: CacheWriter, pool: RowPool) -> None:
        if pool.split == "train" and len(pool.order) == toy_config.pool_rows:
            with went_on:
                assert went_on.wait_for(lambda: ended > pool.facts["batches"], timeout=60)
        put(self, pool)

    monkeypatch.setattr(RowSource, "start", counted_start)
    monkeypatch.setattr(CacheWriter, "put", late_put)
    assert contents(harvest(toy_config, tmp_path / "cache").path) == contents(toy_cache)


def test_nothing_of_a_batch_that_is_not_finite_is_written(
    toy_config: HarvestConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sixth pass is bad; what was started after it is given up, and pools that end before it are kept."""

    def broken(config: Any) -> Any:
        lm, passes = load_model(config), iter(range(1, 10**9))

        def spoil(_: Any, __: Any, output: torch.Tensor) -> None:
            if len(output) == toy_config.batch_size and next(passes) == 6:  # smaller ones only measure openings
                output[3, 17] = torch.nan

        decoder_layers(lm.model)[1].register_forward_hook(spoil)
        return lm

    monkeypatch.setattr("saepipe.harvest.run.load_model", broken)
    with pytest.raises(CorruptDataError, match=r"NaN or Inf at blocks\.1.*: document \d+, context 83, position 17"):
        harvest(toy_config, tmp_path / "cache")
    pools = [line for line in artifact.read_manifest(tmp_path / "cache") if line["kind"] == "pool"]
    assert pools
    assert all(line["batches"] < 6 for line in pools)


def test_late_copies_to_the_host_change_no_byte(
    toy_cache: Path, toy_config: HarvestConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA, rows reach the host only when they are waited for."""
    monkeypatch.setattr("saepipe.harvest.row_source.host_copies", lambda _: LateCopies())
    assert contents(harvest(toy_config, tmp_path / "cache").path) == contents(toy_cache)


def test_outliers_are_dropped_and_counted(toy_config: HarvestConfig, tmp_path: Path) -> None:
    progress = Silent()
    config = changed(toy_config, drop_norm_above=1.15, num_tokens=4000, heldout_tokens=0)
    cache = harvest(config, tmp_path / "cache", progress=progress)
    dropped = cache.attributes["num_dropped"]
    assert dropped > 0
    assert any(f"left out {dropped:,} rows" in sentence for sentence in progress.said)
    for hook, limit in cache.attributes["norm_limits"].items():
        norms = MappedRows(cache.path, f"norm/{hook}", cache.files).read(0, 4000)
        x = torch.from_numpy(cache.rows(hook).read(0, 4000).view(np.int16)).view(torch.bfloat16).float()
        assert norms.max() <= limit
        np.testing.assert_allclose(norms, x.norm(dim=1).numpy(), rtol=1e-6)
    with pytest.raises(ConfigError, match="no held-out contexts"):
        _ = cache.heldout


def test_the_plan_writes_nothing_and_counts_correctly(
    toy_config: HarvestConfig, toy_cache: Path, tmp_path: Path
) -> None:
    planned = plan(toy_config, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    acts = [name for name in Cache.open(toy_cache).files if "acts/" in name and "/c/" in name]
    assert planned.shards == len(acts)
    assert planned.heldout_positions == Cache.open(toy_cache).heldout.contexts.size
    assert planned.raw_bytes == (12_000 + planned.heldout_positions) * 128 * 2 * 2
    assert planned.fits
    assert 1.1 < planned.compression_ratio < 1.6
    assert planned.tokens_per_second > 0


@pytest.mark.parametrize("data", [b"", b'{"attributes"', b"{}", None])
def test_a_damaged_description_is_named(
    toy_cache: Path, toy_config: HarvestConfig, tmp_path: Path, data: bytes | None
) -> None:
    out = shutil.copytree(toy_cache, tmp_path / "cache")
    (out / "zarr.json").unlink()
    if data is not None:
        (out / "zarr.json").write_bytes(data)
    for longer in (toy_config, changed(toy_config, num_tokens=13_000)):
        with pytest.raises(CorruptDataError, match=r"zarr\.json"):
            harvest(longer, out)


def test_an_edited_description_is_not_extended(toy_cache: Path, toy_config: HarvestConfig, tmp_path: Path) -> None:
    out = shutil.copytree(toy_cache, tmp_path / "cache")
    text = (out / "zarr.json").read_text()
    (out / "zarr.json").write_text(text.replace('"norm_limits": {}', '"norm_limits": {"blocks.1.hook_resid_post": 1}'))
    with pytest.raises(CorruptDataError, match=r"zarr\.json has"):
        harvest(changed(toy_config, num_tokens=13_000), out)
