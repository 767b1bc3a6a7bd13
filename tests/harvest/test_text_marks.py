"""A text that changed is refused whenever it is read again: after a stop, for an extension, after a repair."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import zarr

from helpers.interrupted_harvests import Crash, changed, contents, crash_after
from saepipe.data.cache.heldout_split import heldout_score
from saepipe.data.cache.repair import repair
from saepipe.data.errors import ConfigError
from saepipe.data.folders import artifact
from saepipe.data.terminal.progress import Silent
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest

SHARE = 0.2
TEXTS = [f"The tale of the {i} apples went on and on until the sun went down over {i} hills." for i in range(1200)]
HELDOUT = [i for i, text in enumerate(TEXTS) if heldout_score(text) < SHARE]
Edit = Callable[[list[str]], list[str]]


def edited(texts: list[str], *numbers: int) -> list[str]:
    return [text.replace("apples", "figs") if i in numbers else text for i, text in enumerate(texts)]


def with_another_heldout_text(texts: list[str]) -> list[str]:
    """Changes one held-out document, so that it stays held out and the training documents stay as they are."""
    number = HELDOUT[2]
    others = (texts[number].replace("tale", f"tale{'s' * n}") for n in range(1, 99))
    return [next(t for t in others if heldout_score(t) < SHARE) if i == number else t for i, t in enumerate(texts)]


EDITS: dict[str, Edit] = {
    "edited": lambda texts: edited(texts, 7),
    "reordered": lambda texts: [texts[1], texts[0], *texts[2:]],
    "a document less": lambda texts: texts[1:],
    "another held-out document": with_another_heldout_text,
    "cut off": lambda texts: texts[:20],
}


@pytest.fixture(scope="module")
def base(toy_config: HarvestConfig) -> HarvestConfig:
    """Settings of a small cache of one hook, with two full pools and a partial one, and full and partial held-out."""
    sizes = {"num_tokens": 2500, "heldout_tokens": 512, "shard_rows": 512, "chunk_rows": 256, "batch_size": 2}
    return changed(toy_config, hooks=["blocks.1.hook_resid_post"], heldout_share=SHARE, context_size=64, **sizes)


@pytest.fixture(scope="module")
def made(base: HarvestConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, HarvestConfig]:
    """A folder with a text and its cache, and the config, which names the text."""
    folder = tmp_path_factory.mktemp("made")
    write(folder / "text.txt", TEXTS)
    config = changed(base, dataset={"source": str(folder / "text.txt")})
    harvest(config, folder / "cache")
    return folder, config


def write(path: Path, texts: list[str]) -> None:
    path.write_text("\n\n".join(texts))


@pytest.fixture
def text(made: tuple[Path, HarvestConfig]) -> Path:
    """The text, as it was when the cache was made."""
    write(made[0] / "text.txt", TEXTS)
    return made[0] / "text.txt"


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_extension_with_another_text_is_refused_and_changes_nothing(
    made: tuple[Path, HarvestConfig], text: Path, tmp_path: Path, edit: Edit
) -> None:
    folder, config = made
    out = shutil.copytree(folder / "cache", tmp_path / "cache")
    write(text, edit(TEXTS))
    with pytest.raises(ConfigError, match=r"text of .* has changed since training pool \d+ was made"):
        harvest(changed(config, num_tokens=4000), out)
    assert contents(out) == contents(folder / "cache")


def test_the_text_of_a_partial_last_pool_is_compared_before_that_is_dropped(
    made: tuple[Path, HarvestConfig], text: Path, tmp_path: Path
) -> None:
    folder, config = made
    out = shutil.copytree(folder / "cache", tmp_path / "cache")
    number = last_document(out) - 1
    write(text, edited(TEXTS, *range(number - 5, number)))
    with pytest.raises(ConfigError, match="since training pool 2 was made"):
        harvest(changed(config, num_tokens=4000), out)
    assert contents(out) == contents(folder / "cache")


def test_text_that_was_not_read_yet_may_change(made: tuple[Path, HarvestConfig], text: Path, tmp_path: Path) -> None:
    """Neither in the rows nor in the measured openings, which take the first 16 held-out windows."""
    folder, config = made
    out, first = shutil.copytree(folder / "cache", tmp_path / "cache"), 500
    assert last_document(out) < first - 40
    assert HELDOUT[60] < first
    write(text, edited(TEXTS, *range(first, len(TEXTS))))
    harvest(changed(config, num_tokens=12_000), out)
    assert last_document(out) > first
    harvest(changed(config, num_tokens=12_000), tmp_path / "in one go")
    assert contents(out) == contents(tmp_path / "in one go")


@pytest.mark.parametrize("edit", [EDITS["edited"], EDITS["cut off"]], ids=["edited", "cut off"])
def test_a_stopped_harvest_is_not_resumed_with_another_text(
    made: tuple[Path, HarvestConfig], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: Edit
) -> None:
    folder, config = made
    out = tmp_path / "cache"
    crash_after(monkeypatch, 17)
    with pytest.raises(Crash):
        harvest(config, out)
    monkeypatch.undo()
    before = contents(out)
    write(text, edit(TEXTS))
    with pytest.raises(ConfigError, match="has changed since training pool 0 was made"):
        harvest(config, out)
    assert contents(out) == before
    write(text, TEXTS)
    harvest(config, out)
    assert contents(out) == contents(folder / "cache")


@pytest.mark.parametrize("shard", ["0", "3", "4"], ids=["the first pool", "the second pool", "the last pool"])
def test_a_repaired_cache_is_not_refilled_with_another_text(
    made: tuple[Path, HarvestConfig], text: Path, tmp_path: Path, shard: str
) -> None:
    folder, config = made
    out = shutil.copytree(folder / "cache", tmp_path / "cache")
    damage(out, shard)
    assert repair(out)["pools"]
    number = last_document(folder / "cache")
    write(text, edited(TEXTS, *range(number - 5, number)))
    with pytest.raises(ConfigError, match="since training pool 2 was made"):
        harvest(config, out)
    write(text, TEXTS)
    harvest(config, out)
    assert contents(out) == contents(folder / "cache")


def test_a_cache_begun_without_digests_goes_on_without_and_says_so(
    made: tuple[Path, HarvestConfig], text: Path, tmp_path: Path
) -> None:
    folder, config = made
    out = shutil.copytree(folder / "cache", tmp_path / "cache")
    make_earlier(out)
    before, progress = contents(out), Silent()
    damage(out, "3")
    repair(out)
    harvest(config, out, progress=progress)
    assert sum("the text is not compared" in sentence for sentence in progress.said) == 1
    assert contents(out) == before


def damage(cache: Path, shard: str) -> None:
    path = cache / "acts" / "blocks.1.hook_resid_post" / "c" / shard / "0"
    path.write_bytes(path.read_bytes()[:-1])


def last_document(cache: Path) -> int:
    """The number of the last document of a cache's training text."""
    return int(zarr.open_group(cache, mode="r")["documents"][:].max())  # type: ignore[index, union-attr]


def make_earlier(cache: Path) -> None:
    """Removes from a finished cache what earlier versions did not write."""
    group = json.loads((cache / "zarr.json").read_text())
    attributes = group["attributes"]["saepipe"]
    for key in ("config", "definition", "chat_template", "probe"):
        del attributes["model"][key]
    for key in ("encoding", "nulls"):
        attributes["config"]["dataset"].pop(key, None)
    artifact.write_json(cache / "zarr.json", group)
    lines = artifact.read_manifest(cache)
    for line in lines:
        line.pop("text", None)
        if "zarr.json" in line["files"]:
            line["files"] |= artifact.digest_files(cache, ["zarr.json"])
    artifact.rewrite_manifest(cache, lines)
    artifact.commit(cache)
