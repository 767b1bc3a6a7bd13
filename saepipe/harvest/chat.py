"""Conversations as text, by the tokenizer's chat template, with the turns whose tokens are stored."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from saepipe.data.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turns = Literal["all", "assistant", "user"]
Span = tuple[int, int]
"""Start and end of a stretch of text, in characters."""

_THOUGHT_ENDS = "</think>"


class ChatText:
    """Renders conversations, and counts the turns whose content the template leaves out or changes.

    A conversation is rendered once and as a whole, and its turns are looked for in the result: many templates strip
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
            text = str(self._tokenizer.apply_chat_template(list(messages), tokenize=False))
        except Exception as error:  # a template raises whatever it likes
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ConfigError(f"its chat template refuses the messages {reprlib.repr(messages)}: {reason}") from error
        return text, None if self._turns == "all" else self._spans(text, messages)

    def _spans(self, text: str, messages: Sequence[dict[str, Any]]) -> tuple[Span, ...]:
        spans: list[Span] = []
        after = 0
        for message in messages:
            span = _find(message["content"], text, after)
            after = span[1] if span else after
            if message["role"] == self._turns:
                self.num_turns += 1
                self.num_lost += span is None
                spans += [span] if span else []
        return tuple(spans)


def _find(content: str, text: str, after: int) -> Span | None:
    """Returns where a turn's content is, without its outer spaces; without its thoughts if those were dropped."""
    for part in (content, content.rpartition(_THOUGHT_ENDS)[2]):
        start = text.find(part.strip(), after)
        if start >= 0 and part.strip():
            return start, start + len(part.strip())
    return None


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
