"""Texts as token ids, and their activations at the hook, in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.model.testbed import Testbed
from saepipe.harvest.model import LanguageModel


@dataclass(frozen=True)
class TokenizedTexts:
    """Token ids of texts, each at most a context long."""

    ids: list[np.ndarray]
    """(seq,) int64 per text, BOS first"""
    keep: list[np.ndarray]
    """(seq,) bool per text: ordinary tokens, of which each text has one at least"""


def tokenize(
    lm: LanguageModel, texts: Sequence[str], context_size: int, name: str, *, keep_end: bool = False
) -> TokenizedTexts:
    """Tokenizes texts, each cut to a context.

    Args:
        lm: the model with its tokenizer.
        texts: any number of texts.
        context_size: positions per text, BOS included.
        name: what the user calls the texts.
        keep_end: cuts a long text at its start instead of at its end.

    Raises:
        ConfigError: if a text has no ordinary token.
    """
    num_kept = context_size - 1
    settings = {} if keep_end else {"truncation": True, "max_length": num_kept}
    bodies = lm.tokenizer(list(texts), add_special_tokens=False, verbose=False, **settings)["input_ids"]
    ids = [np.array([lm.bos_id, *body[-num_kept:]]) for body in bodies]
    keep = [~np.isin(row, list(lm.special_ids)) for row in ids]
    if (empty := np.flatnonzero([not kept.any() for kept in keep])).size:
        raise ConfigError(f"text {empty[0]} of {name} has no ordinary token: {texts[empty[0]]!r}", hint="leave it out")
    return TokenizedTexts(ids, keep)


def captured_texts(
    testbed: Testbed, tokenized: TokenizedTexts, name: str, progress: Progress
) -> Iterator[tuple[int, Tensor]]:
    """Yields each text's index and activations (seq, row_width), the shortest texts first, padded on the right."""
    ids = tokenized.ids
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    progress.start(f"{name} through the model", len(ids), "texts")
    try:
        for start in range(0, len(order), testbed.batch_size):
            batch = order[start : start + testbed.batch_size]
            padded = torch.full((len(batch), len(ids[batch[-1]])), testbed.language_model.bos_id)
            for row, index in enumerate(batch):
                padded[row, : len(ids[index])] = torch.from_numpy(ids[index])
            captured = testbed.capture(padded).cpu()
            for row, index in enumerate(batch):
                yield index, captured[row, : len(ids[index])]
            progress.advance(len(batch))
    finally:
        progress.finish()
