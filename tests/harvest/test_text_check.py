"""A cache against its text: what is the same passes, and what is not is named by its first document."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.interrupted_harvests import changed
from saepipe.cli import main
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.heldout_split import heldout_score
from saepipe.data.cache.layout import SPLITS
from saepipe.data.errors import ConfigError, RemoteError
from saepipe.data.toy import MODEL_DIR
from saepipe.harvest import text_check
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.describe import make_windows
from saepipe.harvest.model import load_model
from saepipe.harvest.run import harvest
from saepipe.harvest.text_check import StoredDocuments, check_text

SHARE = 0.2
TEXTS = [f"The tale of the {i} apples went on and on until the sun went down over {i} hills." for i in range(600)]
LONG = [TEXTS[50]] * 40
TEXTS[50] = " ".join(LONG)  # of several contexts
Edit = Callable[[list[str]], list[str]]
FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def base(toy_config: HarvestConfig) -> HarvestConfig:
    sizes = {"num_tokens": 4000, "heldout_tokens": 512, "shard_rows": 512, "chunk_rows": 256, "batch_size": 4}
    return changed(toy_config, hooks=["blocks.0.hook_resid_post"], heldout_share=SHARE, context_size=64, **sizes)


@pytest.fixture(scope="module")
def made(base: HarvestConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cache]:
    """A text, one document per line, and its cache."""
    folder = tmp_path_factory.mktemp("made")
    write(folder / "text.txt", TEXTS)
    dataset = {"source": str(folder / "text.txt"), "documents": "line"}
    return folder / "text.txt", harvest(changed(base, dataset=dataset), folder / "cache")


@pytest.fixture
def text(made: tuple[Path, Cache]) -> Path:
    write(made[0], TEXTS)
    return made[0]


def write(path: Path, texts: list[str]) -> None:
    path.write_text("\n".join(texts) + "\n")


def edited(*numbers: int) -> Edit:
    return lambda texts: [text.replace("tale", "story") if i in numbers else text for i, text in enumerate(texts)]


def last_document(cache: Cache) -> int:
    return max(max(StoredDocuments(cache, split).first_contexts) for split in SPLITS)


def test_the_documents_of_a_cache_are_put_together_again(made: tuple[Path, Cache], text: Path) -> None:
    _, cache = made
    tokenizer = load_model(HarvestConfig.parse(cache.attributes["config"]).model).tokenizer
    for split, heldout in (("train", False), ("heldout", True)):
        stored = StoredDocuments(cache, split)
        numbers = list(stored.first_contexts)
        assert numbers == [i for i in range(numbers[-1] + 1) if (heldout_score(TEXTS[i]) < SHARE) == heldout]
        for number in numbers[:-1]:
            tokens = stored.tokens(number)
            assert tokens.ids.tolist() == tokenizer(TEXTS[number], add_special_tokens=False)["input_ids"]
            assert tokens.is_whole
            assert tokens.keep.all()
        assert not stored.tokens(numbers[-1]).is_whole


@pytest.mark.parametrize("block", [1, 2, 7])
def test_contexts_may_be_read_in_any_blocks(
    made: tuple[Path, Cache], monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    def documents() -> list[tuple[list[int], bool]]:
        stored = StoredDocuments(made[1], "train")
        return [(tokens.ids.tolist(), tokens.is_whole) for tokens in map(stored.tokens, stored.first_contexts)]

    whole = documents()
    monkeypatch.setattr(text_check, "_BLOCK", block)
    assert documents() == whole


@pytest.mark.parametrize("sample", [1, 3, 10_000])
def test_a_text_that_is_the_same_passes(made: tuple[Path, Cache], text: Path, sample: int) -> None:
    _, cache = made
    report = check_text(cache, sample=sample)
    assert sample <= report["compared"] <= sample + 2 or report["compared"] == report["documents"]
    write(text, [*TEXTS[: last_document(cache) + 1], "another end"])
    check_text(cache, sample=sample)


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (edited(7), r"document 7 of .*: its token 1 is ' story', and was ' tale'"),
        (edited(90, 13, 101), r"document 13 of "),
        (lambda texts: [texts[1], texts[0], *texts[2:]], r"document 0 of "),
        (lambda texts: [*texts[:30], *texts[31:]], r"document 30 of "),
        (lambda texts: [*texts[:30], "", *texts[31:]], r"document 30 of .* is not there any more, or is empty"),
        (lambda texts: [*texts[:30], texts[30] + " So it was.", *texts[31:]], r"document 30 of .*: it has \d+ tokens"),
        (
            lambda texts: [*texts[:50], " ".join(LONG[:20]), *texts[51:]],
            r"document 50 of .*: it has \d+ tokens, and",
        ),
        (lambda texts: texts[:20], r".*text\.txt ends before document 20"),
    ],
    ids=["edited", "edited thrice", "swapped", "one less", "emptied", "longer", "shorter", "cut off"],
)
@pytest.mark.parametrize("sample", [10, 10_000])
def test_the_first_document_that_differs_is_named(
    made: tuple[Path, Cache], text: Path, edit: Edit, problem: str, sample: int
) -> None:
    """The last document differs too, so that any sample finds a difference."""
    _, cache = made
    assert last_document(cache) > 101
    write(text, edit(edited(last_document(cache))(TEXTS)))
    with pytest.raises(ConfigError, match=rf"the text of .*cache has changed: {problem}"):
        check_text(cache, sample=sample)


def test_the_sample_is_the_same_every_time_and_may_miss_a_single_document(made: tuple[Path, Cache], text: Path) -> None:
    _, cache = made
    found = []
    for number in range(40):
        write(text, edited(number)(TEXTS))
        try:
            check_text(cache, sample=60)
        except ConfigError:
            found.append(number)
    assert 10 < len(found) < 40
    write(text, edited(found[0])(TEXTS))
    with pytest.raises(ConfigError, match=f"document {found[0]} of"):
        check_text(cache, sample=60)


VARIANTS: dict[str, dict[str, Any]] = {
    "windows": {"bos": "windows"},
    "no BOS": {"bos": "none"},
    "another BOS": {"bos_token": "<eos>"},
    "short contexts": {"context_size": 8},
    "toy": {"dataset": {"source": "toy"}},
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_every_way_to_cut_windows_passes(
    base: HarvestConfig, text: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    dataset = {"source": str(text), "documents": "line"}
    cache = harvest(changed(base, num_tokens=1500, **({"dataset": dataset} | settings)), tmp_path / "cache")
    assert check_text(cache)["compared"] > 20
    if "dataset" not in settings:
        write(text, edited(3)(TEXTS))
        with pytest.raises(ConfigError, match="document 3 of"):
            check_text(cache)


def test_ids_are_compared_without_the_bos_that_they_bring_along(base: HarvestConfig, tmp_path: Path) -> None:
    path, rows = tmp_path / "ids.jsonl", [[2, *range(10 + i, 40 + i)] for i in range(80)]
    path.write_text("".join(json.dumps({"ids": row}) + "\n" for row in rows))
    dataset = {"source": str(path), "columns": "ids", "tokenised": True}
    cache = harvest(changed(base, dataset=dataset, num_tokens=1000, heldout_tokens=0), tmp_path / "cache")
    check_text(cache)
    rows[5][9] += 1
    path.write_text("".join(json.dumps({"ids": row}) + "\n" for row in rows))
    with pytest.raises(ConfigError, match="document 5 of .*: its token 8 is"):
        check_text(cache)


def test_turns_that_are_stored_are_compared_too(base: HarvestConfig, tmp_path: Path) -> None:
    """The roles are exchanged, so that the template's text is nearly the same and other tokens are stored."""
    model = shutil.copytree(MODEL_DIR, tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    (model / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"chat_template": template}))

    def write_chats(first: str, second: str) -> None:
        turns = [{"role": first, "content": "The cat is"}, {"role": second, "content": "small and grey."}]
        (tmp_path / "chats.json").write_text(json.dumps([{"messages": turns} for _ in range(300)]))

    write_chats("user", "assistant")
    dataset = {"source": str(tmp_path / "chats.json"), "columns": "messages", "chat": "assistant"}
    settings = {"model": {**base.model.to_dict(), "model": str(model)}, "heldout_share": 0, "num_tokens": 800}
    cache = harvest(changed(base, dataset=dataset, **settings), tmp_path / "cache")
    check_text(cache)
    write_chats("assistant", "user")
    with pytest.raises(ConfigError, match="document 0 of .*: its token 0 would be stored"):
        check_text(cache)


def test_a_tokenizer_that_changed_is_named_instead_of_the_text(base: HarvestConfig, text: Path, tmp_path: Path) -> None:
    model = shutil.copytree(MODEL_DIR, tmp_path / "model")
    dataset = {"source": str(text), "documents": "line"}
    settings = {"model": {**base.model.to_dict(), "model": str(model)}, "dataset": dataset, "num_tokens": 800}
    cache = harvest(changed(base, **settings), tmp_path / "cache")
    definition = json.loads((model / "tokenizer.json").read_text())
    (model / "tokenizer.json").write_text(json.dumps(definition | {"normalizer": {"type": "Lowercase"}}))
    with pytest.raises(ConfigError, match="has another tokenizer than the one that made .*\n  the tokenizer's definit"):
        check_text(cache)
    shutil.rmtree(model)
    with pytest.raises(RemoteError, match="cannot get the model"):
        check_text(cache)


@pytest.mark.parametrize("name", ["made_at_24f008c", "made_at_c89d372"])
def test_caches_of_earlier_versions_are_compared(name: str) -> None:
    said: list[str] = []
    assert check_text(Cache.open(FIXTURES / name / "cache"), say=said.append)["compared"] > 1
    assert any("were recorded: not compared" in sentence for sentence in said)


def test_a_text_that_is_gone_cannot_be_compared(made: tuple[Path, Cache], text: Path, tiny_cache: Path) -> None:
    text.unlink()
    with pytest.raises(ConfigError, match=r"the text of .*cache is not there any more: .*text\.txt"):
        check_text(made[1])
    with pytest.raises(ConfigError, match="does not say which text it was made of"):
        check_text(Cache.open(tiny_cache))


def test_the_command_compares_files_first_and_then_the_text(
    made: tuple[Path, Cache], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = shutil.copytree(made[1].path, tmp_path / "cache")
    command = ["cache", "verify", str(cache), "--against-text", "--format", "json"]
    assert main(command) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["damaged"] == []
    assert facts["compared"] == facts["documents"] > 100
    write(text, edited(7)(TEXTS))
    assert main(command) == 2
    assert "document 7 of" in json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    next(cache.rglob("c/0/0")).write_bytes(b"")
    assert main(command) == 4
    assert main([*command, "--repair"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_a_document_without_tokens_of_its_own_is_no_difference(base: HarvestConfig, tmp_path: Path) -> None:
    """The last context may end with the BOS of a document whose text would be in the next one."""
    config = changed(base, dataset={"source": str(tmp_path / "t.txt")}, context_size=9, heldout_share=0, num_tokens=7)
    (tmp_path / "t.txt").write_text("\n\n".join(["abc abc"] * 50))
    lm = load_model(config.model)
    sizes = range(4, 30)
    ends = {size: next(make_windows(changed(config, context_size=size), lm))[1].ids[-1] for size in sizes}
    size = next(size for size in sizes if ends[size] == lm.bos_id)
    cache = harvest(changed(config, context_size=size, batch_size=1, num_tokens=size - 4), tmp_path / "cache")
    assert np.array_equal(cache.array("contexts").read(0, 1)[0, -1:], [lm.bos_id])
    assert check_text(cache)["compared"] >= 2
