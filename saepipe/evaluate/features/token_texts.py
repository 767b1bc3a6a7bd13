"""How tokens read, for people: as they stand in a text, their space in front included."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import AutoTokenizer

from saepipe.data.cache.cache import Cache
from saepipe.harvest.model import ModelConfig, tokenizer_fingerprint

_LOST = "\ufffd"
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS = (byte for byte in range(256) if byte not in _PRINTABLE)
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}
"""What byte-level BPE writes for each byte (GPT-2's `bytes_to_unicode`)."""


def token_texts(cache: Cache, ids: Iterable[int]) -> tuple[dict[int, str], str | None]:
    """The text of each id; or none, and why, if the tokenizer that made the cache cannot be had."""
    made_with, config = cache.attributes["model"], ModelConfig.parse(cache.attributes["config"]["model"])
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(config.path, revision=made_with["revision"])
    except (OSError, ValueError, ImportError) as error:
        return {}, f"the tokenizer of {config.model} cannot be loaded: {str(error).splitlines()[0]}"
    if tokenizer_fingerprint(tokenizer, cache.attributes["special_ids"]) != made_with["tokenizer"]:
        return {}, f"the tokenizer of {config.model} is not the one that made the cache"
    return texts(tokenizer, ids), None


def texts(tokenizer: Any, ids: Iterable[int]) -> dict[int, str]:
    """Each id decoded behind another token, since some decoders drop the space of a first one.

    A token that ends within a character shows the bytes that are left: `\\xc3`, or as the tokenizer calls it, `<0xC3>`.
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
        found[token] = text[len(lead) :] if whole else _readable(str(piece))
    return found


def _readable(piece: str) -> str:
    if piece.startswith("<0x") or not set(piece) <= _BYTES.keys():
        return piece
    return bytes(_BYTES[character] for character in piece).decode("utf-8", "backslashreplace")
