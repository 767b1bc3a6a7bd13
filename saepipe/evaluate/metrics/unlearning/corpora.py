"""Text to forget and text to retain, and the density of each latent on it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saepipe.data.cache.special_tokens import keep_mask
from saepipe.data.errors import ConfigError, RemoteError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.texts.dataset_source import dataset_key
from saepipe.harvest.config import DatasetConfig
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.text import Document, read_documents
from saepipe.harvest.tokenize import Packer, tokenise
from saepipe.train.sae.base import is_active

_WINDOWS, _ACTIVATIONS = "unlearning_windows", "unlearning_activations"
_MIN_CHARS = 50
_MAX_DOCUMENTS = 100_000
_BLOCK = 64
"""Windows whose activations are one artifact (300 MB for Gemma-2-2b at 1,024 tokens)."""
_LATENTS_AT_ONCE = 2**26
"""Latent activations held at a time (256 MiB in float32)."""


@dataclass(frozen=True)
class Corpus:
    """Text to measure densities on, and how much of it."""

    name: str
    dataset: DatasetConfig
    num_documents: int | None
    """sampled without replacement; None: all"""
    num_windows: int
    """maximum, sampled from all that the documents fill"""
    context_size: int
    seed: int
    mode: Mode

    def key(self) -> dict[str, Any]:
        """Returns what decides the windows."""
        return {
            "dataset": dataset_key(self.dataset),
            "num_documents": self.num_documents,
            "num_windows": self.num_windows,
            "context_size": self.context_size,
            "seed": self.seed,
            "mode": self.mode,
        }

    def works(self, testbed: Testbed) -> list[Work]:
        """Returns the work that `token_blocks` needs; until the windows exist, their number is the maximum."""
        key = self.key()
        exists = testbed.kept_work.has(_WINDOWS, key)
        num_windows = len(_windows(testbed, self, key)) if exists else self.num_windows
        starts = range(0, num_windows, _BLOCK)
        return [Work(_WINDOWS, key), *(Work(_ACTIVATIONS, key | {"start": start}) for start in starts)]


def token_blocks(testbed: Testbed, corpus: Corpus, progress: Progress) -> Iterator[Tensor]:
    """Yields activations of the corpus's ordinary tokens at the hook, (num_tokens, d_in) per block; artifacts."""
    key = corpus.key()
    windows = _windows(testbed, corpus, key)
    progress.start(f"unlearning: the {corpus.name} text at {testbed.hook}", len(windows), "windows")
    try:
        for start in range(0, len(windows), _BLOCK):
            block = windows[start : start + _BLOCK]
            make = partial(_activations, testbed, block)
            yield testbed.kept_work.get(_ACTIVATIONS, key | {"start": start}, make).tensors["x"]
            progress.advance(len(block))
    finally:
        progress.finish()


@torch.no_grad()
def densities(subjects: Sequence[Subject], blocks: Iterable[Tensor]) -> tuple[list[Tensor], int]:
    """Returns the share of tokens on which each latent is active (above 0), (d_sae,) float64 by subject, and tokens."""
    counts = [torch.zeros(subject.sae.d_sae, dtype=torch.int64) for subject in subjects]
    num_tokens = 0
    for block in blocks:
        for subject, count in zip(subjects, counts, strict=True):
            for x in torch.split(block, max(1, _LATENTS_AT_ONCE // subject.sae.d_sae)):
                acts = subject.encode_sparse(x)
                latents = acts.pattern.columns[is_active(acts.values)]
                count += torch.bincount(latents, minlength=len(count)).cpu()
        num_tokens += len(block)
    return [count.double() / num_tokens for count in counts], num_tokens


def _windows(testbed: Testbed, corpus: Corpus, key: dict[str, Any]) -> Tensor:
    """Returns token ids (num_windows, context_size) int64, each window beginning with BOS; an artifact."""

    def make() -> Content:
        windows = _sample_windows(corpus, testbed.language_model, key["dataset"].get("revision"))
        return Content({"ids": torch.from_numpy(windows)})

    return testbed.kept_work.get(_WINDOWS, key, make).tensors["ids"]


def _sample_windows(corpus: Corpus, lm: LanguageModel, revision: str | None) -> np.ndarray:
    documents = _documents(corpus.dataset, revision)
    if corpus.num_documents is not None:
        num_documents = min(corpus.num_documents, len(documents))
        documents = random.Random(corpus.seed).sample(documents, num_documents)
    cut = _cut_like_reference if corpus.mode == "reference" else _pack
    windows = cut(documents, lm, corpus.context_size)
    if len(windows) == 0:
        raise ConfigError(
            f"the {corpus.name} text {corpus.dataset.source!r} does not fill one window of {corpus.context_size}",
            hint="choose a smaller context_size, or more text",
        )
    order = np.random.default_rng(corpus.seed).permutation(len(windows))
    return windows[order[: corpus.num_windows]]


def _documents(dataset: DatasetConfig, revision: str | None) -> list[Document]:
    """Returns the documents of more than 50 characters among the first 100,000."""
    try:
        documents = list(islice(read_documents(dataset, revision), _MAX_DOCUMENTS))
    except RemoteError as error:
        hint = "if it is gated, ask for access on its page, then `hf auth login`; or set `source` to a file of your own"
        raise RemoteError(error.message, hint=hint) from error
    return [document for document in documents if document.text and len(document.text) > _MIN_CHARS]


def _pack(documents: Iterable[Document], lm: LanguageModel, context_size: int) -> np.ndarray:
    """Packs full windows like a harvest, with BOS at their start and between documents."""
    packer = Packer(context_size, lm.bos_id, separate=True)
    encoded = tokenise(documents, lm.tokenizer)
    rows = [window.ids for tokens in encoded for window in packer.add(tokens.ids, tokens.document.number)]
    return np.array(rows, dtype=np.int64).reshape(-1, context_size)


def _cut_like_reference(documents: Sequence[Document], lm: LanguageModel, context_size: int) -> np.ndarray:
    """Joins all text by EOS, tokenises it in 20 pieces of equal length, cuts it, and puts BOS over first tokens."""
    text = str(lm.tokenizer.eos_token).join(document.text or "" for document in documents)
    length = (len(text) - 1) // 20 + 1
    pieces = [text[start : start + length] for start in range(0, len(text), length)] if text else []
    encoded = lm.tokenizer(pieces, add_special_tokens=False)["input_ids"] if pieces else []
    ids = np.array([token for piece in encoded for token in (lm.bos_id, *piece)], dtype=np.int64)
    ids = ids[ids != lm.tokenizer.pad_token_id]
    windows = ids[: len(ids) // context_size * context_size].reshape(-1, context_size)
    windows[:, 0] = lm.bos_id
    return windows


def _activations(testbed: Testbed, windows: Tensor) -> Content:
    """Computes x (num_tokens, d_in) in the model's dtype at the ordinary tokens of some windows."""
    keep = torch.from_numpy(keep_mask(windows.numpy(), testbed.language_model.special_ids))
    size = testbed.batch_size
    parts = zip(torch.split(windows, size), torch.split(keep, size), strict=True)
    return Content({"x": torch.cat([testbed.capture(ids).cpu()[mask] for ids, mask in parts])})
