"""Work that depends on the model alone: made once, the same bytes ever after, and never trusted unchecked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from saepipe.data.errors import CorruptDataError, LockedError
from saepipe.evaluate.model.kept_work import Artifacts, Content, Work

MODEL = {"weights": "w", "hook": "blocks.1.hook_resid_post"}


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path, MODEL)


class Maker:
    """Counts how often the work is done; every time it gives other numbers."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Content:
        self.times += 1
        return Content({"x": torch.full((3, 2), self.times, dtype=torch.bfloat16)}, {"words": ["a", "b"]})


def test_made_once_for_this_call_and_for_later_ones(artifacts: Artifacts, tmp_path: Path) -> None:
    make = Maker()
    first = artifacts.get("probe", {"seed": 1}, make)
    again = artifacts.get("probe", {"seed": 1}, make)
    later = Artifacts(tmp_path, MODEL).get("probe", {"seed": 1}, make)
    assert make.times == 1
    assert first is again
    assert torch.equal(later.tensors["x"], torch.ones(3, 2, dtype=torch.bfloat16))
    assert later.info == {"words": ["a", "b"]}


@pytest.mark.parametrize(
    ("kind", "key", "of"),
    [("probe", {"seed": 2}, MODEL), ("texts", {"seed": 1}, MODEL), ("probe", {"seed": 1}, {**MODEL, "weights": "v"})],
)
def test_other_work_is_done_anew(artifacts: Artifacts, tmp_path: Path, kind: str, key: dict, of: dict) -> None:
    make = Maker()
    artifacts.get("probe", {"seed": 1}, make)
    other = Artifacts(tmp_path, of)
    assert not other.has(kind, key)
    other.get(kind, key, make)
    assert make.times == 2
    assert other.has(kind, key)


def test_a_maker_that_fails_leaves_nothing_behind_that_counts(artifacts: Artifacts) -> None:
    def fail() -> Content:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        artifacts.get("probe", {}, fail)
    assert not artifacts.has("probe", {})
    make = Maker()
    artifacts.get("probe", {}, make)
    assert make.times == 1


def test_a_flipped_bit_is_found(artifacts: Artifacts, tmp_path: Path) -> None:
    artifacts.get("probe", {}, Maker())
    path = artifacts.folder(Work("probe", {})) / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptDataError, match="other content"):
        Artifacts(tmp_path, MODEL).get("probe", {}, Maker())


def test_a_folder_that_was_renamed_is_found(artifacts: Artifacts, tmp_path: Path) -> None:
    artifacts.get("probe", {"seed": 1}, Maker())
    artifacts.folder(Work("probe", {"seed": 1})).rename(artifacts.folder(Work("probe", {"seed": 2})))
    with pytest.raises(CorruptDataError, match="other work"):
        Artifacts(tmp_path, MODEL).get("probe", {"seed": 2}, Maker())


def test_two_writers_do_not_meet(artifacts: Artifacts, tmp_path: Path) -> None:
    def meanwhile() -> Content:
        with pytest.raises(LockedError):
            Artifacts(tmp_path, MODEL).get("probe", {}, Maker())
        return Maker()()

    assert artifacts.get("probe", {}, meanwhile).tensors["x"][0, 0] == 1


def test_what_is_stored_says_what_it_is(artifacts: Artifacts) -> None:
    artifacts.get("probe", {"seed": 1}, Maker())
    header = json.loads((artifacts.folder(Work("probe", {"seed": 1})) / "manifest.jsonl").read_text())
    assert header["key"] == {**MODEL, "seed": 1}
    assert header["provenance"]["torch"]
