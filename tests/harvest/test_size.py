"""A harvest that the disk cannot hold is refused before it starts; one whose rest fits is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.interrupted_harvests import Crash, changed, contents, crash_after
from helpers.quota import set_quota
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import OutOfSpaceError
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest
from saepipe.harvest.size import Size


def test_a_harvest_that_does_not_fit_is_refused(
    toy_config: HarvestConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = changed(toy_config, num_tokens=10**14)
    with pytest.raises(OutOfSpaceError, match="of 100,000,000,000,000 tokens, needs [0-9,]+.* GB, but there are .* GB"):
        harvest(large, tmp_path / "large")
    assert contents(tmp_path / "large") == {}
    set_quota(monkeypatch, tmp_path, kibibytes=3000)
    with pytest.raises(OutOfSpaceError, match="needs .* bytes, but the quota leaves 3,072,000 bytes") as caught:
        harvest(toy_config, tmp_path / "cache")
    assert "codec: int8" in str(caught.value.hint)
    assert contents(tmp_path / "cache") == {}


def test_compression_and_what_is_stored_already_count(
    toy_config: HarvestConfig, toy_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compressed cache needs 6.0 of 7.6 MB, and what is left of it after its first pool 4.3 MB."""
    raw = Size.of(toy_config, Cache.open(toy_cache).widths).raw_bytes
    with monkeypatch.context() as patch:
        set_quota(patch, tmp_path, kibibytes=raw * 9 // 10 // 1024)
        crash_after(patch, 6)
        with pytest.raises(Crash):
            harvest(toy_config, tmp_path / "cache")
    set_quota(monkeypatch, tmp_path, kibibytes=4400)
    assert harvest(toy_config, tmp_path / "cache").fingerprint == Cache.open(toy_cache).fingerprint
