"""Activations of texts, token by token, and their means over each text, which probes classify."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.reconstruction import rows_at_a_time, tokens_at_a_time
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.texts.captured_texts import captured_texts, tokenize
from saepipe.train.sae.sparse_acts import SparseActs
from saepipe.train.sae.straight_through import DENSE_ABOVE


@dataclass(frozen=True)
class TextActivations:
    """Activations of the ordinary tokens of some texts, one text after the other."""

    x: Tensor
    """(num_tokens, d_in) in the model's dtype"""
    offsets: Tensor
    """(num_texts + 1,) int64: text i is x[offsets[i]:offsets[i + 1]]"""
    num_special: Tensor
    """(num_texts,) int64: positions of a window of context_size that hold BOS, padding or another special token"""
    of_target: Tensor | None = None
    """(num_tokens, d_out): activations that transcoders reconstruct; None: x itself is reconstructed"""

    @property
    def target(self) -> Tensor:
        """(num_tokens, d_out): activations that are reconstructed"""
        return self.x if self.of_target is None else self.of_target

    @property
    def num_texts(self) -> int:
        return len(self.num_special)

    @property
    def num_tokens(self) -> Tensor:
        """(num_texts,) int64"""
        return self.offsets.diff()

    def pooled(self) -> Tensor:
        """Returns (num_texts, d_in) float32: the mean of x over each text's tokens."""
        return self._means(self.x)

    def pooled_target(self) -> Tensor:
        """Returns (num_texts, d_out) float32: the mean of the target over each text's tokens."""
        return self._means(self.target)

    def _means(self, rows: Tensor) -> Tensor:
        chunks = self._chunks(rows, rows_at_a_time(rows.shape[1]))
        return torch.cat([_mean_by_text(chunk.float(), lengths) for chunk, lengths in chunks])

    def chunks(self, max_tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields x (num_tokens, d_in), lengths (num_texts,) of whole texts; one longer than max_tokens comes alone."""
        return self._chunks(self.x, max_tokens)

    def _chunks(self, rows: Tensor, max_tokens: int) -> Iterator[tuple[Tensor, Tensor]]:
        offsets = self.offsets.tolist()
        first = 0
        while first < self.num_texts:
            last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + max_tokens, side="right")) - 1)
            yield rows[offsets[first] : offsets[last]], self.num_tokens[first:last]
            first = last

    def texts(self, first: int, last: int) -> TextActivations:
        """Returns texts `first` to `last` - 1."""
        offsets = self.offsets[first : last + 1]
        tokens = slice(int(offsets[0]), int(offsets[-1]))
        of_target = None if self.of_target is None else self.of_target[tokens]
        return TextActivations(self.x[tokens], offsets - offsets[0], self.num_special[first:last], of_target)


def activations_work(texts: Work, context_size: int, subset: str = "all") -> Work:
    """Returns the work that `text_activations` needs.

    Args:
        texts: the work that decides the texts.
        context_size: positions per text, BOS included, as SAEBench counts them.
        subset: name of the texts that are used.
    """
    return Work(
        "activations", {"texts": {"kind": texts.kind, **texts.key}, "which": subset, "context_size": context_size}
    )


def text_activations(
    testbed: Testbed, texts: Sequence[str], work: Work, name: str, progress: Progress
) -> TextActivations:
    """Returns the activations at the hook of the first positions of each text, from the stored artifact if it exists.

    Args:
        testbed: the model and the hook.
        texts: the texts that `work` decides, each with at least one ordinary token.
        work: see `activations_work`.
        name: what the user calls the texts.
        progress: advanced as the model runs.

    Raises:
        ConfigError: if a text has no ordinary token.
    """
    size = work.key["context_size"]
    content = testbed.kept_work.get(work.kind, work.key, lambda: _run_model(testbed, texts, size, name, progress))
    x, target = testbed.split(content.tensors["x"])
    of_target = None if testbed.target is None else target
    activations = TextActivations(x, content.tensors["offsets"], content.tensors["num_special"], of_target)
    assert activations.num_texts == len(texts), "the work does not decide the texts"
    return activations


def pooled_latents(subject: Subject, activations: TextActivations, latents: Tensor | None = None) -> Tensor:
    """Returns the mean activation of each latent over each text's tokens.

    Args:
        subject: its SAE encodes.
        activations: activations of the texts.
        latents: (num_latents,) int64 indices; None: all latents.

    Returns:
        (num_texts, d_sae or num_latents) float32, on the CPU.
    """
    parts, dense = [], latents is not None
    held = rows_at_a_time if dense else tokens_at_a_time
    for x, lengths in activations.chunks(held(subject.sae.d_sae)):
        if dense:
            parts.append(_mean_by_text(subject.encode(x, latents), lengths))
        else:
            acts = subject.encode_sparse(x)
            dense = acts.share > DENSE_ABOVE  # the other texts will have as many entries
            parts.append(_mean_of_entries(acts, lengths))
    return torch.cat([part.cpu() for part in parts])


def _mean_by_text(rows: Tensor, lengths: Tensor) -> Tensor:
    starts = (lengths.cumsum(0) - lengths).to(rows.device)
    return embedding_bag(torch.arange(len(rows), device=rows.device), rows, starts, mode="mean")


def _mean_of_entries(acts: SparseActs, lengths: Tensor) -> Tensor:
    """Returns `_mean_by_text` of acts of which only the entries are held, (num_texts, d_sae)."""
    pattern, lengths = acts.pattern, lengths.to(acts.values.device)
    text = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    up = (torch.arange(len(text), device=text.device) - text) * pattern.num_columns  # from a token's row to its text's
    positions = pattern.positions - up.repeat_interleave(pattern.row_starts.diff())
    sums = acts.values.new_zeros(len(lengths) * pattern.num_columns).index_add_(0, positions, acts.values)
    return sums.view(len(lengths), -1) / lengths[:, None]


def _run_model(testbed: Testbed, texts: Sequence[str], context_size: int, name: str, progress: Progress) -> Content:
    tokenized = tokenize(testbed.language_model, texts, context_size, name)
    lengths = np.array([kept.sum() for kept in tokenized.keep])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    x = torch.empty(offsets[-1], testbed.row_width, dtype=testbed.language_model.model.dtype)
    for index, captured in captured_texts(testbed, tokenized, name, progress):
        x[offsets[index] : offsets[index + 1]] = captured[torch.from_numpy(tokenized.keep[index])]
    num_special = torch.from_numpy(context_size - lengths)
    return Content({"x": x, "offsets": torch.from_numpy(offsets), "num_special": num_special})
