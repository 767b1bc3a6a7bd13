"""Names in files that lead out of their folder: nothing outside is opened, written or removed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.made_caches import structured_rows, write_cache
from helpers.resealed import add_file
from saepipe.cli import main
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.repair import repair
from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.inside import inside
from saepipe.evaluate.features.store import FeatureStore
from saepipe.train.rundir.finished_run import open_run

pytestmark = pytest.mark.quick

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("made") / "cache", {HOOK: structured_rows(600, 24)})


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


def present(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if artifact.LOG not in path.parts)


@pytest.mark.parametrize("name", ["a", "a/b.json", "c/0/0", "..a/.b", "l1=4,k=3/seed-0", "é" * 100])
def test_plain_names_are_inside(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../victim", "a/../../victim", "/etc/hosts", "a//b", "a/", "a\0b", "x" * 256, "\ud800", 3]
)
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorruptDataError, match="which is not a path inside it"):
        inside(tmp_path, name)


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_followed(tmp_path: Path, victim: Path) -> None:
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "out").symlink_to(tmp_path)
    (root / "within").symlink_to(root / "real")
    for name in ("out", "out/victim", "out/new"):
        with pytest.raises(CorruptDataError, match="a symbolic link leads out of it"):
            inside(root, name)
    assert inside(root, "within/new") == root / "within" / "new"
    (tmp_path / "alias").symlink_to(root)  # the folder itself may be reached through a link
    assert inside(tmp_path / "alias", "real/new") == tmp_path / "alias" / "real" / "new"


@pytest.mark.parametrize("name", ["../victim", "{victim}", "link/victim"])
@pytest.mark.parametrize("command", [("verify",), ("verify", "--repair"), ("info",)])
def test_a_manifest_that_names_a_file_elsewhere(
    made: Path, tmp_path: Path, victim: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], name: str
) -> None:
    cache = Path(shutil.copytree(made, tmp_path / "cache"))
    (cache / "link").symlink_to(tmp_path)
    add_file(cache, name.format(victim=victim))
    before = present(tmp_path)
    assert main(["cache", *command, str(cache)]) == 4
    text = capsys.readouterr().err
    assert "victim" in text
    assert "not a path inside it" in text or "leads out of it" in text
    assert victim.read_text() == "precious"
    assert present(tmp_path) == before


def test_an_unfinished_cache_is_repaired_only_inside(made: Path, tmp_path: Path, victim: Path) -> None:
    cache = Path(shutil.copytree(made, tmp_path / "cache"))
    add_file(cache, "../victim")
    (cache / artifact.COMMITTED).unlink()
    with pytest.raises(CorruptDataError, match="names '../victim'"):
        repair(cache)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("open_it", [Cache.open, open_run, FeatureStore.open])
def test_everything_with_a_manifest_refuses_it(
    made: Path, tmp_path: Path, victim: Path, open_it: Callable[[Path], object]
) -> None:
    """The seals of caches, runs and stores are read by the same function, before anything else in the folder."""
    folder = Path(shutil.copytree(made, tmp_path / "folder"))
    (folder / "info.json").write_text("{}")
    add_file(folder, "../victim")
    with pytest.raises(CorruptDataError, match="names '../victim'"):
        open_it(folder)


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "3",
        '"x"',
        '{"files": []}',
        '{"files": {"a": 3}}',
        '{"files": {"a": {"bytes": true, "xxh3": ""}}}',
        "[" * 5000,
    ],
    ids=lambda line: line[:20],
)
def test_a_malformed_line_is_named(made: Path, tmp_path: Path, line: str) -> None:
    cache = Path(shutil.copytree(made, tmp_path / "cache"))
    path = cache / artifact.MANIFEST
    path.write_text(f"{line}\n{path.read_text()}")
    with pytest.raises(CorruptDataError, match="line 1 is not"):
        artifact.read_manifest(cache)


@pytest.mark.parametrize("variant", ["..", "../x", "/etc", "a/b", 3, None])
def test_a_run_whose_variant_is_not_a_name(tmp_path: Path, variant: object) -> None:
    """It becomes a folder in a push and in an export."""
    header = {"kind": "run", "run_id": "0", "cache": "0", "hook": HOOK, "variant": variant, "seed": 0}
    artifact.rewrite_manifest(tmp_path, [header])
    artifact.commit(tmp_path)
    with pytest.raises(CorruptDataError, match="variant|not a path inside"):
        open_run(tmp_path)
