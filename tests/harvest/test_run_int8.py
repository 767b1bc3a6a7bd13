"""A harvest with codec int8: resumed and extended to the same bytes, and refused below the SNR floor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers.interrupted_harvests import Crash, changed, contents, crash_after
from saepipe.cli import app
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import HealthError
from saepipe.data.folders import artifact
from saepipe.data.terminal.progress import Silent
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.plan import plan
from saepipe.harvest.run import harvest


@pytest.fixture(scope="module")
def config(toy_config: HarvestConfig) -> HarvestConfig:
    return changed(toy_config, codec="int8")


@pytest.fixture(scope="module")
def folder(config: HarvestConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harvest(config, tmp_path_factory.mktemp("int8") / "cache").path


@pytest.mark.parametrize("batches", [1, 5])
def test_a_crash_changes_no_byte(
    folder: Path, config: HarvestConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    out = tmp_path / "cache"
    crash_after(monkeypatch, batches)
    with pytest.raises(Crash):
        harvest(config, out)
    monkeypatch.undo()
    harvest(config, out)
    assert contents(out) == contents(folder)


@pytest.mark.parametrize("num_tokens", [1000, 5000])
def test_an_extended_cache_equals_one_made_in_a_single_harvest(
    folder: Path, config: HarvestConfig, tmp_path: Path, num_tokens: int
) -> None:
    """1,000 rows do not fill the first shard, the source of the channel statistics, so it is made again."""
    out = tmp_path / "cache"
    harvest(changed(config, num_tokens=num_tokens, heldout_tokens=1000), out)
    harvest(config, out)
    assert contents(out) == contents(folder)


def test_only_the_training_activations_differ_from_the_lossless_cache(folder: Path, toy_cache: Path) -> None:
    ours, theirs = contents(folder), contents(toy_cache)
    changed_files = {"zarr.json", artifact.MANIFEST, artifact.COMMITTED}
    same = [name for name in theirs if not name.startswith("acts/") and name not in changed_files]
    assert all(ours[name] == theirs[name] for name in same)
    assert any(name.startswith("heldout/acts/") for name in same)
    assert {name.split("/")[0] for name in ours.keys() - theirs.keys()} == {"int8"}


def test_the_floor_is_enforced_and_can_be_lowered(folder: Path, config: HarvestConfig, tmp_path: Path) -> None:
    out, strict = tmp_path / "cache", changed(config, int8_snr_floor=60)
    for _ in range(2):  # the second time before the model runs
        with pytest.raises(HealthError, match="the floor is 60 dB"):
            harvest(strict, out)
    assert not artifact.is_committed(out)
    progress = Silent()
    cache = harvest(config, out, progress=progress)
    assert contents(out) == contents(folder)
    for hook in config.hooks:
        snr = cache.attributes["int8_snr_db"][hook]
        assert snr["ordinary"] > 40
        text = f"{snr['ordinary']:.1f} dB in the ordinary ones"
        assert any(hook in sentence and text in sentence for sentence in progress.said)


def test_info_and_verify(folder: Path) -> None:
    result = CliRunner().invoke(app, ["cache", "info", str(folder), "--format", "json"])
    info = json.loads(result.stdout)
    assert info["codec"] == "int8"
    assert info["int8_snr_db"] == Cache.open(folder).attributes["int8_snr_db"]
    assert 1.2 < info["ratio"] < 1.3  # 256 bytes per row become 128 + 4 + 16 * 4
    assert CliRunner().invoke(app, ["cache", "verify", str(folder)]).exit_code == 0


def test_the_plan_predicts_the_size(config: HarvestConfig, folder: Path, tmp_path: Path) -> None:
    planned = plan(config, tmp_path / "cache")
    files = Cache.open(folder).files
    stored = sum(entry["bytes"] for name, entry in files.items() if "acts/" in name or name.startswith("int8/"))
    assert planned.compressed_bytes == pytest.approx(stored, rel=0.03)
