"""Compares a sample of a cache's documents with its text as it is now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.layout import SPLITS, Layout, Split
from saepipe.data.cache.special_tokens import keep_mask
from saepipe.data.errors import ConfigError
from saepipe.data.folders import artifact
from saepipe.harvest.chat import ChatText
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.identity import compare, describe_tokenizer
from saepipe.harvest.model import load_tokenizer, loading_error, tokenizer_fingerprint
from saepipe.harvest.model_config import ModelConfig
from saepipe.harvest.text import Document, read_documents
from saepipe.harvest.tokenize import Tokenised, tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE = 512
"""Documents that are compared, besides the first and the last."""
_BLOCK = 1024
"""Contexts that are read at once."""


@dataclass(frozen=True)
class StoredTokens:
    """A document's tokens in a cache."""

    ids: np.ndarray
    """(tokens,) int32, without the BOS that the harvest added"""
    keep: np.ndarray
    """(tokens,) bool: whether the rows of a token are stored"""
    is_whole: bool
    """False where the cache may end within the document"""


class StoredDocuments:
    """Documents of one split of a cache, put together again from its contexts."""

    def __init__(self, cache: Cache, split: Split) -> None:
        names = (Layout.documents(split), Layout.contexts(split), Layout.keep(split))
        self._arrays = [cache.array(name) for name in names]
        self._num_contexts, self._size = self._arrays[0].num_rows, cache.attributes["context_size"]
        self._bos = cache.attributes["bos"]
        self._block = lru_cache(maxsize=2)(self._read_block)  # documents are asked for in order
        self.first_contexts: dict[int, int] = {}
        """for each document, in order, the context in which it begins"""
        for start in range(0, self._num_contexts, _BLOCK):
            stop = min(start + _BLOCK, self._num_contexts)
            numbers, index = np.unique(self._arrays[0].read(start, stop), return_index=True)
            for document, context in zip(numbers.tolist(), (start + index // self._size).tolist(), strict=True):
                self.first_contexts.setdefault(document, context)

    def tokens(self, number: int) -> StoredTokens:
        """Returns the tokens of a document, which must be one of `first_contexts`."""
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        context, is_whole = self.first_contexts[number], False
        while context < self._num_contexts and not is_whole:
            documents, ids, keep = (rows[context % _BLOCK :] for rows in self._block(context // _BLOCK))
            own = documents == number
            is_whole = not own[-1, -1]
            num_contexts = int(own.any(axis=1).sum())
            own = own[:num_contexts] & ~self._added(documents[:num_contexts])
            parts.append((ids[:num_contexts][own], keep[:num_contexts][own]))
            context += len(documents)
        ids, keep = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return StoredTokens(ids, keep, is_whole)

    def _read_block(self, number: int) -> list[np.ndarray]:
        start, stop = number * _BLOCK, min((number + 1) * _BLOCK, self._num_contexts)
        return [array.read(start, stop) for array in self._arrays]

    def _added(self, documents: np.ndarray) -> np.ndarray:
        """Returns where the harvest put BOS, of the same shape as documents (num_contexts, context_size)."""
        added = np.zeros(documents.shape, bool)
        added[:, 0] = self._bos != "none"
        if self._bos == "documents":
            added[:, 1:] |= documents[:, 1:] != documents[:, :-1]
        return added


def check_text(
    cache: Cache,
    *,
    sample: int = SAMPLE,
    trust_remote_code: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, int]:
    """Tokenises a sample of the cache's documents again, and compares ids and stored positions.

    If one differs, all documents before it are compared too, so that the first is named.

    Args:
        cache: a cache.
        sample: documents to compare, besides the first and the last.
        trust_remote_code: whether a tokenizer's own code may run, if the harvest ran it.
        say: is told of differences of the tokenizer that only another version of a package makes.

    Returns:
        {"documents": in the cache, "compared": of them}.

    Raises:
        ConfigError: if a document has changed, or the tokenizer has, or the text is not where the harvest read it.
        RemoteError: if the text or the tokenizer cannot be had from the hub.
    """
    comparison = _Comparison(cache, trust_remote_code, say)
    numbers = np.array(sorted(number for stored in comparison.stored for number in stored.first_contexts), np.int64)
    chosen = np.random.default_rng(0).choice(numbers, min(sample, len(numbers)), replace=False)
    chosen = np.union1d(chosen, numbers[[0, -1]] if len(numbers) else numbers)
    if difference := comparison.first_difference(chosen):
        number, _ = difference
        _, problem = comparison.first_difference(numbers[numbers < number]) or difference
        hint = "restore the text that it was made of, or harvest anew; its rows are still those of its own contexts"
        raise ConfigError(f"the text of {cache.path} has changed: {problem}", hint=hint)
    return {"documents": len(numbers), "compared": len(chosen)}


class _Comparison:
    """A cache beside its text and its tokenizer."""

    def __init__(self, cache: Cache, trust_remote_code: bool, say: Callable[[str], None]) -> None:
        self._attributes = cache.attributes
        self._config = _config(cache)
        trusted = trust_remote_code and self._config.model.trust_remote_code
        model = self._config.model.model_copy(update={"trust_remote_code": trusted})
        self._tokenizer = _tokenizer(cache, model, say)
        splits: tuple[Split, ...] = SPLITS if cache.attributes["num_heldout_contexts"] else ("train",)
        self.stored = [StoredDocuments(cache, split) for split in splits]

    def first_difference(self, numbers: np.ndarray) -> tuple[int, str] | None:
        """Returns the first of some documents that differs, and how; None if none does."""
        wanted = iter(numbers.tolist())
        source = self._config.dataset.source
        for tokens in tokenise(self._read(set(numbers.tolist())), self._tokenizer):
            number = next(wanted)
            if tokens.document.number != number:
                return number, f"document {number} of {source} is not there any more, or is empty"
            if problem := self._difference(tokens):
                return number, f"document {number} of {source}: {problem}"
        missing = next(wanted, None)
        return None if missing is None else (missing, f"{source} ends before document {missing}")

    def _read(self, numbers: Collection[int]) -> Iterator[Document]:
        """Yields those of the documents that are still there."""
        dataset = self._config.dataset
        chat = ChatText(self._tokenizer, dataset.chat) if dataset.chat else None
        last = max(numbers, default=-1)
        for document in read_documents(dataset, self._attributes["dataset"]["revision"], chat=chat):
            if document.number in numbers:
                yield document
            if document.number >= last:
                return

    def _difference(self, tokens: Tokenised) -> str | None:
        number = tokens.document.number
        stored = next(documents for documents in self.stored if number in documents.first_contexts).tokens(number)
        ids, keep = tokens.ids, keep_mask(tokens.ids, frozenset(self._attributes["special_ids"]))
        keep = keep if tokens.stored is None else keep & tokens.stored
        if len(ids) and ids[0] == self._attributes["bos_id"]:
            ids, keep = ids[1:], keep[1:]
        before = len(stored.ids)
        shared = min(len(ids), before)
        if len(other := np.flatnonzero(ids[:shared] != stored.ids[:shared])):
            now, then = (self._tokenizer.decode([int(part[other[0]])]) for part in (ids, stored.ids))
            return f"its token {other[0]} is {now!r}, and was {then!r}"
        if len(ids) < before or (stored.is_whole and len(ids) > before):
            return f"it has {len(ids):,} tokens, and had {before:,}"
        if len(other := np.flatnonzero(keep[:shared] != stored.keep[:shared])):
            return f"its token {other[0]} would{'' if keep[other[0]] else ' not'} be stored"
        return None


def _config(cache: Cache) -> HarvestConfig:
    """Returns the config of a cache; raises ConfigError if it names no text, or a file that is not there."""
    if "dataset" not in cache.attributes["config"]:
        raise ConfigError(f"{cache.path} does not say which text it was made of")
    config = HarvestConfig.parse(cache.attributes["config"], source=f"{cache.path}/zarr.json")
    source, is_local = config.dataset.source, cache.attributes["dataset"]["revision"] is None
    if is_local and source != "toy" and not Path(source).exists():
        hint = "put it back, or run this in the folder in which the harvest was run"
        raise ConfigError(f"the text of {cache.path} is not there any more: {source}", hint=hint)
    return config


def _tokenizer(cache: Cache, config: ModelConfig, say: Callable[[str], None]) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a cache; raises ConfigError if it is another one now."""
    model = cache.attributes["model"]
    try:
        tokenizer = load_tokenizer(config, model.get("revision"))
    except Exception as error:  # a damaged or foreign file raises whatever the reading library does not expect
        raise loading_error(config, error) from error
    current: Mapping[str, Any] = {"tokenizer": tokenizer_fingerprint(tokenizer), **describe_tokenizer(tokenizer)}
    stored = {key: model[key] for key in current.keys() & model.keys()}
    comparison = compare(stored, current, (cache.attributes.get("versions", {}), artifact.provenance()))
    if comparison.changed:
        raise ConfigError(
            f"{config.model} has another tokenizer than the one that made {cache.path}:\n  "
            + "\n  ".join(comparison.changed),
            hint="use the checkpoint and revision that made the cache",
        )
    for sentence in comparison.accepted:
        say(f"{cache.path}: {sentence}")
    return tokenizer
