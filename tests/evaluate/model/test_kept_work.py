"""Work that depends on the model alone: done once, then read back unchanged, and checked every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from saepipe.data.errors import CorruptDataError, LockedError
from saepipe.evaluate.model.kept_work import Content, KeptWork, Work

pytestmark = pytest.mark.quick

MODEL = {"weights": "w", "hook": "blocks.1.hook_resid_post"}


@pytest.fixture
def kept_work(tmp_path: Path) -> KeptWork:
    return KeptWork(tmp_path, MODEL)


class Maker:
    """Counts how often the work is done, and returns different numbers each time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Content:
        self.calls += 1
        return Content({"x": torch.full((3, 2), self.calls, dtype=torch.bfloat16)}, {"words": ["a", "b"]})


def test_work_is_done_once_for_this_and_later_calls(kept_work: KeptWork, tmp_path: Path) -> None:
    make = Maker()
    first = kept_work.get("probe", {"seed": 1}, make)
    again = kept_work.get("probe", {"seed": 1}, make)
    later = KeptWork(tmp_path, MODEL).get("probe", {"seed": 1}, make)
    assert make.calls == 1
    assert first is again
    assert torch.equal(later.tensors["x"], torch.ones(3, 2, dtype=torch.bfloat16))
    assert later.info == {"words": ["a", "b"]}


@pytest.mark.parametrize(
    ("kind", "key", "model"),
    [("probe", {"seed": 2}, MODEL), ("texts", {"seed": 1}, MODEL), ("probe", {"seed": 1}, {**MODEL, "weights": "v"})],
)
def test_other_work_is_done_separately(kept_work: KeptWork, tmp_path: Path, kind: str, key: dict, model: dict) -> None:
    make = Maker()
    kept_work.get("probe", {"seed": 1}, make)
    other = KeptWork(tmp_path, model)
    assert not other.has(kind, key)
    other.get(kind, key, make)
    assert make.calls == 2
    assert other.has(kind, key)


def test_failed_work_is_not_stored(kept_work: KeptWork) -> None:
    def fail() -> Content:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_work.get("probe", {}, fail)
    assert not kept_work.has("probe", {})
    make = Maker()
    kept_work.get("probe", {}, make)
    assert make.calls == 1


def test_a_flipped_bit_is_detected(kept_work: KeptWork, tmp_path: Path) -> None:
    kept_work.get("probe", {}, Maker())
    path = kept_work.folder(Work("probe", {})) / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptDataError, match="other content"):
        KeptWork(tmp_path, MODEL).get("probe", {}, Maker())


def test_a_renamed_folder_is_detected(kept_work: KeptWork, tmp_path: Path) -> None:
    kept_work.get("probe", {"seed": 1}, Maker())
    kept_work.folder(Work("probe", {"seed": 1})).rename(kept_work.folder(Work("probe", {"seed": 2})))
    with pytest.raises(CorruptDataError, match="other work"):
        KeptWork(tmp_path, MODEL).get("probe", {"seed": 2}, Maker())


def test_two_writers_exclude_each_other(kept_work: KeptWork, tmp_path: Path) -> None:
    def make() -> Content:
        with pytest.raises(LockedError):
            KeptWork(tmp_path, MODEL).get("probe", {}, Maker())
        return Maker()()

    assert kept_work.get("probe", {}, make).tensors["x"][0, 0] == 1


def test_the_manifest_records_key_and_provenance(kept_work: KeptWork) -> None:
    kept_work.get("probe", {"seed": 1}, Maker())
    header = json.loads((kept_work.folder(Work("probe", {"seed": 1})) / "manifest.jsonl").read_text())
    assert header["key"] == {**MODEL, "seed": 1}
    assert header["provenance"]["torch"]
