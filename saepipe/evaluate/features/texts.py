"""How tokens read, for people: as they stand in a text, their space in front included."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import AutoTokenizer

from saepipe.data.cache import Cache
from saepipe.data.config import fingerprint
from saepipe.harvest.model import ModelConfig

_LOST = "\ufffd"


def token_texts(cache: Cache, ids: Iterable[int]) -> tuple[dict[int, str], str | None]:
    """The text of each id; or none, and why, if the tokenizer that made the cache cannot be had."""
    made_with, config = cache.attributes["model"], ModelConfig.parse(cache.attributes["config"]["model"])
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(config.path, revision=made_with["revision"])
    except (OSError, ValueError, ImportError) as error:
        return {}, f"the tokenizer of {config.model} cannot be loaded: {str(error).splitlines()[0]}"
    if (
        fingerprint({"vocab": tokenizer.get_vocab(), "special": cache.attributes["special_ids"]})
        != made_with["tokenizer"]
    ):
        return {}, f"the tokenizer of {config.model} is not the one that made the cache"
    return texts(tokenizer, ids), None


def texts(tokenizer: Any, ids: Iterable[int]) -> dict[int, str]:
    """Each id decoded behind another token, since some decoders drop the space of a first one.

    A token that is no whole character (one byte of a UTF-8 sequence) is shown as the tokenizer itself calls it.
    """
    ids = sorted(set(ids))
    (anchor,) = tokenizer.encode("a", add_special_tokens=False)[:1]
    lead, *decoded = tokenizer.batch_decode(
        [[anchor], *([anchor, token] for token in ids)], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    pieces = tokenizer.convert_ids_to_tokens(ids)
    found = {}
    for token, text, piece in zip(ids, decoded, pieces, strict=True):
        whole = text.startswith(lead) and _LOST not in text
        found[token] = text[len(lead) :] if whole else str(piece)
    return found
