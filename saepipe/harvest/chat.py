"""Conversations as text, by the tokenizer's chat template, with the turns whose tokens are stored."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from saepipe.data.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = Literal["all", "assistant", "user"]
Span = tuple[int, int]
"""Start and end of a stretch of text, in characters."""

DAY = datetime(2024, 7, 26)
"""The day that templates take for today's: the one that Llama 3's own names where none is given."""

_THOUGHT_ENDS = "</think>"
_LEAST_SEARCHED = 8
"""Characters below which a content is not looked for where a template does more than put contents between marks."""


class ChatText:
    """Renders conversations, and counts the turns whose content the template leaves out or changes.

    A conversation is rendered once and as a whole, and its turns are located in the result: many templates strip
    spaces, drop the thoughts of earlier turns or end the last turn in another way, so the rendering of a beginning is
    no beginning of the rendering. transformers' own mask of assistant tokens also marks what follows a block whose
    last white space the tokenizer drops (5.23, `return_assistant_tokens_mask`).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, turns: Turns) -> None:
        """Raises ConfigError if the tokenizer has no chat template, or cannot say where its tokens come from."""
        if not tokenizer.chat_template:
            hint = "use the tokenizer of a chat model, or render the text yourself"
            raise ConfigError("the tokenizer has no chat template, which `dataset.chat` needs", hint=hint)
        if turns != "all" and not tokenizer.is_fast:
            hint = "chat: all, or a model with a tokenizer.json"
            raise ConfigError(f"chat: {turns} needs a tokenizer that says which text a token is from", hint=hint)
        self._tokenizer, self._turns = tokenizer, turns
        self._template = _dated(tokenizer.get_chat_template())
        self.num_turns = 0
        """turns to be stored, of the conversations rendered so far"""
        self.num_lost = 0
        """those of them that are not in the rendering"""

    def render(self, messages: Sequence[dict[str, Any]]) -> tuple[str, tuple[Span, ...] | None]:
        """Returns the text of a conversation, and the spans to store, ascending; None: all of it.

        Raises:
            ConfigError: if the template refuses the messages.
        """
        try:
            text = self._rendered(messages)
        except Exception as error:  # a template raises whatever it likes
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ConfigError(f"its chat template refuses the messages {reprlib.repr(messages)}: {reason}") from error
        return text, None if self._turns == "all" else self._spans(text, messages)

    def _spans(self, text: str, messages: Sequence[dict[str, Any]]) -> tuple[Span, ...]:
        contents = [message["content"] for message in messages]
        places = _follow(text, self._literals(messages), contents) or _search(text, contents)
        turns = [
            place
            for place, message in zip(places, messages, strict=True)
            if message["role"] == self._turns and message["content"].strip()
        ]
        self.num_turns += len(turns)
        self.num_lost += turns.count(None)
        return tuple(place for place in turns if place is not None)

    def _rendered(self, messages: Sequence[dict[str, Any]]) -> str:
        chat = list(messages)
        return str(self._tokenizer.apply_chat_template(chat, chat_template=self._template, tokenize=False))

    def _literals(self, messages: Sequence[dict[str, Any]]) -> list[str]:
        """Returns what the template writes before each content and after the last, as far as it depends on the roles.

        Empty if it does not write each content once, in order, or refuses contents that are no text.
        """
        names = [f"\ue000{number}\ue001" for number in range(len(messages))]  # of characters for private use
        named = [{**message, "content": name} for message, name in zip(messages, names, strict=True)]
        try:
            rest = self._rendered(named)
        except Exception:  # a template raises whatever it likes; it has rendered the conversation itself
            return []
        literals = []
        for name in names:
            literal, found, rest = rest.partition(name)
            if not found or name in rest:
                return []
            literals.append(literal)
        return [*literals, rest]


def _dated(template: str) -> str:
    """Writes DAY in place of today's date, which would make another text of a conversation on every day.

    It has to be written: transformers 5.23 makes text of functions that are given to a template.
    """
    return re.sub(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)", lambda call: repr(DAY.strftime(call[2])), template)


def _versions(content: str) -> Iterator[str]:
    """Yields what a template may make of a content: outer spaces and thoughts may be gone."""
    for whole in (content, content.rpartition(_THOUGHT_ENDS)[2]):
        yield from (whole, whole.strip(), whole.lstrip(), whole.rstrip())


def _follow(text: str, literals: Sequence[str], contents: Sequence[str]) -> list[Span | None]:
    """Returns where each content is, without its outer spaces; nothing if the text is not literals and contents."""
    places: list[Span | None] = []
    position = len(literals[0]) if literals and text.startswith(literals[0]) else -1
    for content, literal in zip(contents, literals[1:], strict=False):
        lengths = (len(version) for version in _versions(content) if text.startswith(version + literal, position))
        length = next(lengths, None)
        if position < 0 or length is None:
            return []
        places.append(_trimmed(text, position, position + length))
        position += length + len(literal)
    return places


def _search(text: str, contents: Sequence[str]) -> list[Span | None]:
    """Returns the place of each content that is in the text once, and is long enough to be no part of a mark."""
    places: list[Span | None] = []
    for content in contents:
        versions = [version.strip() for version in _versions(content) if len(version.strip()) >= _LEAST_SEARCHED]
        version = next((version for version in versions if text.count(version) == 1), None)
        places.append(None if version is None else (text.index(version), text.index(version) + len(version)))
    return places


def _trimmed(text: str, start: int, stop: int) -> Span | None:
    part = text[start:stop]
    left = start + len(part) - len(part.lstrip())
    return (left, left + len(part.strip())) if part.strip() else None


def messages_of(values: Sequence[Any]) -> list[dict[str, Any]] | None:
    """Returns a row's messages, from a column that holds them or from those of a prompt and a response.

    None if they are neither: a list of mappings with a `role` and a `content`, both text, or two texts.
    """
    if len(values) == 2 and all(isinstance(value, str) for value in values):
        roles = ("user", "assistant")
        return [{"role": role, "content": value} for role, value in zip(roles, values, strict=True)]
    messages = values[0] if len(values) == 1 else None
    sound = isinstance(messages, list) and all(
        isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        for message in messages
    )
    return messages if sound else None
