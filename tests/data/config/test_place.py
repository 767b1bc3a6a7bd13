"""Places in a config."""

from __future__ import annotations

from pathlib import Path

import pytest

from saepipe.data.bucket_address import Address
from saepipe.data.config.base import Config
from saepipe.data.config.place import Place

pytestmark = pytest.mark.quick


class Reader(Config):
    """A config with a place."""

    cache: Place
    other: Place | None = None


@pytest.mark.parametrize("written", ["s3://bucket/cache", "caches/tiny", "/caches/tiny", "gs://bucket"])
def test_a_place_is_stored_as_it_is_written(written: str) -> None:
    config = Reader.parse({"cache": written})
    assert config.to_dict() == {"cache": written, "other": None}
    assert Reader.parse(config.to_dict()) == config


def test_a_mirror_is_stored_as_its_address() -> None:
    mirror = Address("s3", "bucket", "cache").mirror
    assert Reader.parse({"cache": str(mirror), "other": mirror}).to_dict() == {
        "cache": "s3://bucket/cache",
        "other": "s3://bucket/cache",
    }


def test_code_reads_a_path() -> None:
    assert Reader.parse({"cache": "caches/tiny"}).cache == Path("caches/tiny")
    assert Reader.parse({"cache": "x"}).other is None
