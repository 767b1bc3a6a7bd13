"""Addresses in object storage, and the local folders that mirror them."""

from __future__ import annotations

from pathlib import Path

import pytest

from saepipe.data.bucket_address import Address, address_of, mirrored, mirrors, refuse_address, shown
from saepipe.data.errors import ConfigError

pytestmark = pytest.mark.quick


@pytest.fixture(autouse=True)
def _own_mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEPIPE_MIRRORS", str(tmp_path / "mirrors"))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("s3://bucket/caches/gemma", Address("s3", "bucket", "caches/gemma")),
        ("s3://bucket/caches/", Address("s3", "bucket", "caches")),
        ("s3://bucket", Address("s3", "bucket", "")),
        ("gs://bucket/a b/ü", Address("gs", "bucket", "a b/ü")),
        ("az://container/x", Address("az", "container", "x")),
        ("caches/gemma", None),
        ("/s3/bucket", None),
        ("hf://org/name", None),
        ("s3", None),
    ],
)
def test_an_address_has_a_scheme_and_a_bucket(text: str, address: Address | None) -> None:
    assert address_of(text) == address
    assert address_of(Path(text)) == address, "Path writes one slash"
    if address:
        assert str(address) == text.rstrip("/")


@pytest.mark.parametrize("text", ["s3://bucket/../other", "s3://bucket/a//b", "s3://bucket/./a"])
def test_a_key_is_a_plain_relative_path(text: str) -> None:
    with pytest.raises(ConfigError, match="is not an address"):
        address_of(text)


def test_a_mirror_says_what_it_mirrors(tmp_path: Path) -> None:
    address = Address("s3", "bucket", "caches/gemma")
    assert address.mirror.is_relative_to(tmp_path)
    assert mirrored(address.mirror) == address
    assert mirrored(address.mirror / "acts") == address / "acts"
    assert mirrored(Address("s3", "bucket", "").mirror) == Address("s3", "bucket", "")
    assert [mirrored(path) for path in (tmp_path, Path("caches"), mirrors(), mirrors() / "s3")] == [None] * 4


def test_people_read_addresses() -> None:
    folder = Address("s3", "bucket", "runs").mirror
    assert shown(f"kept {folder}/a, not /tmp/b") == "kept s3://bucket/runs/a, not /tmp/b"
    assert shown(Path("s3://bucket/runs")) == "s3://bucket/runs"
    assert shown("s3://bucket/runs") == "s3://bucket/runs"


def test_what_writes_local_folders_refuses_an_address() -> None:
    refuse_address(Path("runs"))
    with pytest.raises(ConfigError, match="s3://bucket/out: this command writes local folders only"):
        refuse_address(Path("s3://bucket/out"))
