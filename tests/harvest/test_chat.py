"""Conversations through a chat template: which text, and which of its tokens are stored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from saepipe.data import toy
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.harvest.chat import ChatText, Turns, messages_of
from saepipe.harvest.run import harvest
from saepipe.harvest.text import Document
from saepipe.harvest.tokenize import tokenise

PLAIN = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
STRIPPED = PLAIN.replace("m.content", "m.content | trim")
THOUGHTLESS = PLAIN.replace("m.content", "m.content.split('</think>')[-1]")
SYSTEMLESS = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN
CHAT = [
    {"role": "user", "content": "the cat is"},
    {"role": "assistant", "content": "<think>a cat</think> the cat is small "},
    {"role": "user", "content": "the cat is"},
    {"role": "assistant", "content": "small"},
]


def tokenizer(template: str | None) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(toy.MODEL_DIR)
    loaded.chat_template = template
    return loaded


def stored_text(template: str, turns: Turns, messages: list[dict[str, Any]] = CHAT) -> list[str]:
    """Returns the stretches of text that are stored."""
    text, spans = ChatText(tokenizer(template), turns).render(messages)
    return [text[start:stop] for start, stop in spans or [(0, len(text))]]


@pytest.mark.quick
@pytest.mark.parametrize("template", [PLAIN, STRIPPED])
def test_the_turns_of_a_role_are_found_in_one_rendering(template: str) -> None:
    """A user's second turn is not taken for the first, although both say the same."""
    assert stored_text(template, "assistant") == ["<think>a cat</think> the cat is small", "small"]
    assert stored_text(template, "user") == ["the cat is"] * 2
    text, spans = ChatText(tokenizer(template), "user").render(CHAT)
    assert spans is not None
    assert spans[1][0] > text.index("small")


@pytest.mark.quick
@pytest.mark.parametrize("answer", ["a", "assistant", "user: a", "\n", "</think>"])
def test_a_content_is_not_mistaken_for_a_mark_of_the_template(answer: str) -> None:
    chat = [{"role": "user", "content": "s"}, {"role": "assistant", "content": answer}, *CHAT]
    text, spans = ChatText(tokenizer(PLAIN), "assistant").render(chat)
    assert spans is not None
    expected = [answer.strip(), "<think>a cat</think> the cat is small", "small"]
    assert [text[start:stop] for start, stop in spans] == [part for part in expected if part]
    assert all(text[:start].rstrip().endswith("assistant:") for start, _ in spans)


@pytest.mark.quick
def test_a_template_that_does_more_is_searched_for_contents_that_are_long_enough() -> None:
    """It counts words, so that the text around a content depends on it."""
    template = PLAIN.replace("{{ m.role }}", "{{ m.role }} {{ m.content.split() | length }}")
    chat = [{"role": "user", "content": "s"}, {"role": "assistant", "content": "a small cat"}]
    renderer = ChatText(tokenizer(template), "assistant")
    text, spans = renderer.render([*chat, {"role": "assistant", "content": "a"}])
    assert spans is not None
    assert [text[start:stop] for start, stop in spans] == ["a small cat"]
    assert (renderer.num_turns, renderer.num_lost) == (2, 1)


@pytest.mark.quick
def test_thoughts_that_a_template_drops_are_not_stored() -> None:
    assert stored_text(THOUGHTLESS, "assistant") == ["the cat is small", "small"]


@pytest.mark.quick
def test_a_template_that_writes_the_date_gives_the_same_text_on_every_day() -> None:
    text, _ = ChatText(tokenizer("{{ strftime_now('%d %b %Y') }} " + PLAIN), "all").render(CHAT)
    assert text.startswith("26 Jul 2024 ")


@pytest.mark.quick
def test_a_content_that_is_in_the_text_twice_is_not_guessed() -> None:
    """The template adds a line to thoughts, and the thought holds the answer."""
    template = PLAIN.replace("m.content", "m.content | replace('</think>', '</think>~')")
    chat = [{"role": "user", "content": "where is it?"}]
    answer = "The answer is Paris."
    renderer = ChatText(tokenizer(template), "assistant")
    _, spans = renderer.render([*chat, {"role": "assistant", "content": f"<think>So: {answer}</think>{answer}"}])
    assert spans == ()
    assert (renderer.num_turns, renderer.num_lost) == (1, 1)


@pytest.mark.quick
def test_turns_that_a_template_changes_are_counted() -> None:
    chat = ChatText(tokenizer(PLAIN.replace("m.content", "m.content | upper")), "assistant")
    assert chat.render(CHAT)[1] == ()
    assert (chat.num_turns, chat.num_lost) == (2, 2)


@pytest.mark.quick
def test_tokens_follow_the_text_to_the_character() -> None:
    chat = ChatText(tokenizer(PLAIN), "assistant")
    text, spans = chat.render(CHAT)
    (tokens,) = tokenise([Document(0, text=text, stored=spans)], tokenizer(PLAIN))
    assert tokens.stored is not None
    decoded = tokenizer(PLAIN).decode(tokens.ids[tokens.stored])
    assert decoded.split() == ["<think>a", "cat</think>", "the", "cat", "is", "small", "small"]
    (whole,) = tokenise([Document(0, text=text)], tokenizer(PLAIN))
    assert whole.stored is None
    np.testing.assert_array_equal(whole.ids, tokens.ids)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([CHAT], CHAT),
        (["a", "b"], [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]),
        (["a"], None),
        ([[{"from": "human", "value": "a"}]], None),
        ([[{"role": "user", "content": None}]], None),
        (["a", None], None),
    ],
)
def test_messages_are_a_list_or_a_prompt_and_a_response(values: list[Any], expected: Any) -> None:
    assert messages_of(values) == expected


@pytest.mark.quick
def test_what_a_template_refuses_is_named() -> None:
    with pytest.raises(ConfigError, match=r"refuses the messages .*: no system role"):
        ChatText(tokenizer(SYSTEMLESS), "all").render([{"role": "system", "content": "be brief"}, *CHAT])
    with pytest.raises(ConfigError, match="has no chat template"):
        ChatText(tokenizer(None), "all")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a copy of the toy model whose tokenizer has a chat template."""
    folder = shutil.copytree(toy.MODEL_DIR, tmp_path_factory.mktemp("chat") / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": STRIPPED}))
    return folder


def config(model: Path, rows: list[dict[str, Any]], folder: Path, **dataset: Any) -> dict[str, Any]:
    source = folder / "chats.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": {"model": str(model), "dtype": "float32", "device": "cpu"},
        "dataset": {"source": str(source), **dataset},
        "num_tokens": 300,
        "heldout_tokens": 64,
        "heldout_share": 0.2,
        "context_size": 32,
        "shard_rows": 256,
        "chunk_rows": 128,
        "batch_size": 4,
    }


def chats(reply: str) -> list[dict[str, Any]]:
    replies = [{"role": "assistant", "content": f"{reply} {number}"} for number in range(80)]
    return [{"messages": [{"role": "user", "content": "the cat is"}, turn]} for turn in replies]


def test_a_cache_of_the_assistants_tokens(model: Path, tmp_path: Path) -> None:
    settings = config(model, chats("small and the dog"), tmp_path, columns="messages", chat="assistant")
    cache = harvest(settings, tmp_path / "cache")
    assert cache.attributes["dataset"]["chat_template"] == STRIPPED
    contexts, keep = (cache.array(name).read(0, 4) for name in ("contexts", "keep"))
    tokens = AutoTokenizer.from_pretrained(model)
    kept, left_out = tokens.decode(contexts[keep]), tokens.decode(contexts[~keep])
    assert "small and the dog" in kept
    assert not {"cat", "user", "assistant"} & {*kept.replace(":", " ").split()}
    assert "the cat is" in left_out
    rows = cache.array("context_id").read(0, cache.num_tokens)
    np.testing.assert_array_equal(np.bincount(rows, minlength=4)[:4], keep.sum(1))  # rows are those tokens
    assert cache.heldout.keep.any()


def test_a_resumed_cache_refuses_other_turns(model: Path, tmp_path: Path) -> None:
    """The same tokens with another mask are another text."""
    settings = config(model, chats("small and the dog"), tmp_path, columns="messages", chat="assistant")
    harvest(settings, tmp_path / "cache")
    moved = [{"messages": [*row["messages"][::-1]]} for row in chats("small and the dog")]
    longer = config(model, moved, tmp_path, columns="messages", chat="assistant") | {"num_tokens": 400}
    with pytest.raises(ConfigError, match="has changed since training pool 0"):
        harvest(longer, tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"dataset\.chat"):
        harvest(config(model, chats("small"), tmp_path, columns="messages", chat="user"), tmp_path / "cache")


def test_turns_that_are_not_stored_are_said(model: Path, tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    folder = shutil.copytree(model, tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    upper = PLAIN.replace("m.content", "(m.content | upper if 'odd' in m.content else m.content)")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": upper}))
    replies = [f"{'an odd' if number % 2 else 'a'} dog and the small cat {number}" for number in range(80)]
    rows = [{"prompt": "the cat is", "response": reply} for reply in replies]
    harvest(
        config(folder, rows, tmp_path, columns=["prompt", "response"], chat="assistant"),
        tmp_path / "cache",
        progress=Listening(),
    )
    assert any("leaves out or changes" in text and "turns of the assistant" in text for text in said)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"messages": "hello"}, "document 0 of .*'messages' holds str .*not a list of messages with a role"),
        ({"messages": [{"role": "user"}]}, "document 0 of .*not a list of messages"),
        ({"messages": None}, "document 0 of .*column 'messages' holds null"),
    ],
)
def test_rows_that_hold_no_messages_are_refused(row: dict[str, Any], problem: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        harvest(config(model, [row], tmp_path, columns="messages", chat="all"), tmp_path / "cache")


def test_a_conversation_without_words_is_left_out_and_a_prompt_may_fill_the_first_windows(
    model: Path, tmp_path: Path
) -> None:
    empty: list[dict[str, Any]] = [{"messages": []}, {"messages": [{"role": "user", "content": ""}]}]
    long = {"role": "user", "content": "the cat is small and the dog " * 60}
    first = {"messages": [long, {"role": "assistant", "content": "small and the dog"}]}
    rows = [*empty, first, *chats("small and the dog")]
    settings = config(model, rows, tmp_path, columns="messages", chat="assistant") | {"batch_size": 2}
    assert harvest(settings, tmp_path / "cache").num_tokens == 300
