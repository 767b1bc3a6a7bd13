"""Work that depends on the model alone: done once, then read back unchanged, and checked every time."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
import torch

from helpers.flips import silent_flips
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.model.kept_work import Content, KeptWork, Work, read

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


@pytest.mark.parametrize("name", ["tensors.safetensors", "info.json", "manifest.jsonl", "COMMITTED"])
def test_no_flipped_bit_is_silent(kept_work: KeptWork, name: str) -> None:
    kept_work.get("probe", {}, Maker())
    folder = kept_work.folder(Work("probe", {}))

    def content() -> object:
        stored = read(folder)
        return stored.tensors["x"].tolist(), stored.info

    assert silent_flips(folder / name, content, 20) == []


def test_damaged_work_is_done_again(tmp_path: Path) -> None:
    KeptWork(tmp_path, MODEL).get("probe", {}, Maker())
    progress, make = Silent(), Maker()
    kept_work = KeptWork(tmp_path, MODEL, progress)
    path = kept_work.folder(Work("probe", {})) / "info.json"
    path.write_text(path.read_text().replace("a", "z"))
    assert kept_work.get("probe", {}, make).info == {"words": ["a", "b"]}
    assert make.calls == 1
    assert all(f"{path} has other content" in said and "is done again" in said for said in progress.said)
    assert KeptWork(tmp_path, MODEL).get("probe", {}, make).info == {"words": ["a", "b"]}
    assert make.calls == 1


def test_a_renamed_folder_is_not_believed(tmp_path: Path) -> None:
    progress, make = Silent(), Maker()
    kept_work = KeptWork(tmp_path, MODEL, progress)
    kept_work.get("probe", {"seed": 1}, make)
    kept_work.folder(Work("probe", {"seed": 1})).rename(kept_work.folder(Work("probe", {"seed": 2})))
    assert KeptWork(tmp_path, MODEL, progress).get("probe", {"seed": 2}, make).tensors["x"][0, 0] == 2
    assert "other work than its name says" in progress.said[0]


def test_one_does_the_work_and_others_wait_for_it(tmp_path: Path) -> None:
    """The work ends only when the second process, here a thread, has said that it waits."""
    begun, waited = Event(), Event()
    makers = [Maker(), Maker()]

    class Listening(Silent):
        def say(self, message: str) -> None:
            super().say(message)
            waited.set()

    def slow() -> Content:
        begun.set()
        assert waited.wait(30)
        return makers[0]()

    second = Listening()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(KeptWork(tmp_path, MODEL).get, "probe", {}, slow)
        assert begun.wait(30)
        content = KeptWork(tmp_path, MODEL, second).get("probe", {}, makers[1])
    assert torch.equal(first.result().tensors["x"], content.tensors["x"])
    assert [maker.calls for maker in makers] == [1, 0]
    assert [said.startswith("waiting: another process is writing") for said in second.said] == [True]


def test_what_a_killed_process_left_is_removed(kept_work: KeptWork) -> None:
    folder = kept_work.folder(Work("probe", {}))
    folder.mkdir(parents=True)
    (folder / "tensors.safetensors").write_bytes(b"half")
    (folder / "info.json.partial").write_bytes(b"half")
    kept_work.get("probe", {}, Maker())
    assert not list(folder.glob("*.partial"))


def test_the_manifest_records_key_and_provenance(kept_work: KeptWork) -> None:
    kept_work.get("probe", {"seed": 1}, Maker())
    header = json.loads((kept_work.folder(Work("probe", {"seed": 1})) / "manifest.jsonl").read_text())
    assert header["key"] == {**MODEL, "seed": 1}
    assert header["provenance"]["torch"]
