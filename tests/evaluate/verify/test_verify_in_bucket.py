"""Verification in a bucket: of what it holds, not of the copies here; and repair by removing objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.made_parts import NOTES, RESULT, STORE, WEIGHTS, WORK, damage, files_of, make_parts
from helpers.object_storage import ObjectStorage
from saepipe.data.bucket_address import shown
from saepipe.data.errors import CorruptDataError
from saepipe.data.remote.bucket import bucket_of
from saepipe.evaluate.verify.run import verify
from saepipe.train.rundir.finished_run import open_run

SHARD = "caches/tiny/acts/blocks.1.hook_resid_post/c/0/0"


@pytest.fixture
def local(tmp_path: Path, tiny_cache: Path) -> Path:
    return make_parts(tmp_path / "local", tiny_cache)


def put(storage: ObjectStorage, local: Path, names: list[str]) -> None:
    for name in names:
        bucket_of(storage.address).put(f"all/{name}", local / name)


def test_damage_in_the_bucket_is_named_though_the_copies_here_are_sound_and_cleared(
    every_storage: ObjectStorage, local: Path
) -> None:
    place = Path(every_storage.at("all"))
    names = [path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file()]
    put(every_storage, local, [name for name in names if "/log/" not in name])
    kinds = {"cache": 1, "kept work": 1, "run": 1, "result": 1, "feature store": 1, "notes": 1}
    verified = verify(place)
    assert (verified.checked, verified.damaged) == (kinds, [])
    assert verify(Path(every_storage.at("all/caches/tiny"))).checked == {"cache": 1, "kept work": 1}

    harmed = {kind: path.relative_to(local).as_posix() for kind, path in files_of(local).items()}
    harmed["cache"] = SHARD
    for name in harmed.values():
        damage(local / name)
    put(every_storage, local, list(harmed.values()))
    every_storage.restart()
    sentences = [shown(sentence) for sentence in verify(place).damaged]
    assert len(sentences) == len(harmed)
    assert all(any(f"{every_storage.at('all')}/{name}" in text for text in sentences) for name in harmed.values())
    with pytest.raises(CorruptDataError, match="has other content than the manifest lists"):
        open_run(every_storage.at("all/runs/l1/seed-0"))

    damage(local / SHARD)  # back again: no harvest has made this cache
    put(every_storage, local, [harmed.pop("cache")])
    repaired = verify(place, repair=True)
    assert len(repaired.cleared) == len(harmed) - 1 == 4
    assert "people's notes cannot be made again" in repaired.lost[0]
    contents = every_storage.contents("all")
    assert not {harmed[kind] for kind in (RESULT, STORE, WORK)} & contents.keys()
    assert "runs/l1/seed-0/COMMITTED" not in contents
    assert {harmed[NOTES], harmed[WEIGHTS]} <= contents.keys()
    every_storage.other_machine()
    assert [harmed[NOTES] in shown(sentence) for sentence in verify(place).damaged] == [True]
