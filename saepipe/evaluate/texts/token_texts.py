"""Readable text of tokens: as in running text, including the leading space."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from saepipe.data.cache.cache import Cache
from saepipe.harvest.model import load_tokenizer, tokenizer_fingerprint
from saepipe.harvest.model_config import ModelConfig

_REPLACEMENT = "\ufffd"
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_UNPRINTABLE = (byte for byte in range(256) if byte not in _PRINTABLE)
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(_UNPRINTABLE)}
"""Bytes by the character that byte-level BPE writes for them (GPT-2's `bytes_to_unicode`)."""


def token_texts(cache: Cache, ids: Iterable[int]) -> tuple[dict[int, str], str | None]:
    """Returns the text of each id; or no texts and the reason, if the tokenizer that made the cache is unavailable."""

    # A tokenizer's own code is not run here: a cache cannot allow that by itself.
    settings = {**cache.attributes["config"]["model"], "trust_remote_code": False}
    made_with, config = cache.attributes["model"], ModelConfig.parse(settings)
    try:
        tokenizer = load_tokenizer(config, made_with["revision"])
    except (OSError, ValueError, ImportError) as error:
        return {}, f"the tokenizer of {config.model} cannot be loaded: {str(error).splitlines()[0]}"
    if tokenizer_fingerprint(tokenizer) != made_with["tokenizer"]:
        return {}, f"the tokenizer of {config.model} is not the one that made the cache"
    return texts(tokenizer, ids), None


def texts(tokenizer: Any, ids: Iterable[int]) -> dict[int, str]:
    """Decodes each id after another token, because some decoders strip the space of a first token.

    A token that is part of a character is shown as its bytes: `\\xc3`, or the tokenizer's own name, `<0xC3>`.
    """
    ids = sorted(set(ids))
    (anchor,) = tokenizer.encode("a", add_special_tokens=False)[:1]
    lead, *decoded = tokenizer.batch_decode(
        [[anchor], *([anchor, token] for token in ids)], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    pieces = tokenizer.convert_ids_to_tokens(ids)
    by_id = {}
    for token, text, piece in zip(ids, decoded, pieces, strict=True):
        whole = text.startswith(lead) and _REPLACEMENT not in text
        by_id[token] = text[len(lead) :] if whole else _readable(str(piece))
    return by_id


def _readable(piece: str) -> str:
    if piece.startswith("<0x") or not set(piece) <= _BYTES.keys():
        return piece
    return bytes(_BYTES[character] for character in piece).decode("utf-8", "backslashreplace")
