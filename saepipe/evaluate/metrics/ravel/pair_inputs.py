"""Inputs of the interventions: base prompts with their activations at the hook, and sources at their entity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saepipe.evaluate.metrics.ravel.teacher_forcing import labels_for
from saepipe.evaluate.model.padded_batches import padded, rows_by_length


@dataclass(frozen=True)
class PairBatch:
    """Some pairs; texts are padded on the right."""

    rows: Tensor
    """(batch,) int64: indices of the pairs"""
    ids: Tensor
    """(batch, seq) int64: base prompt, and its target without the last token"""
    x: Tensor
    """(batch, seq, d_in) at the hook, 0 in the padding"""
    positions: Tensor
    """(batch,) int64: the last token of the base's entity"""
    x_source: Tensor
    """(batch, d_in) at the last token of the source's entity"""
    labels: Tensor
    """(batch, seq) int64: the token that must follow; see `labels_for`"""

    @property
    def x_base(self) -> Tensor:
        """(batch, d_in): x at the entity."""
        return self.x[torch.arange(len(self.x)), self.positions]


@dataclass(frozen=True)
class PairInputs:
    """All pairs of a class of entities; several pairs may share a text or a source."""

    attribute: Tensor
    """(num_pairs,) int64: attribute whose latents are swapped"""
    is_test: Tensor
    """(num_pairs,) bool"""
    is_cause: Tensor
    """(num_pairs,) bool: the answer is to change"""
    base_entity: Tensor
    """(num_pairs,) int64"""
    source_entity: Tensor
    """(num_pairs,) int64"""
    position: Tensor
    """(num_pairs,) int64: the last token of the base's entity"""
    text: Tensor
    """(num_pairs,) int64: number of the text that is run"""
    source: Tensor
    """(num_pairs,) int64: row of `x_sources`"""
    targets: Tensor
    """(num_target_tokens,) int64: target after target"""
    target_offsets: Tensor
    """(num_pairs + 1,) int64: target i is targets[target_offsets[i]:target_offsets[i + 1]]"""
    ids: Tensor
    """(num_tokens,) int64: text after text"""
    text_offsets: Tensor
    """(num_texts + 1,) int64: likewise, in `ids` and `x`"""
    x: Tensor
    """(num_tokens, d_in) at the hook, in the model's dtype"""
    x_sources: Tensor
    """(num_sources, d_in) at the last token of each source's entity"""
    swapped: Tensor
    """(num_pairs,) bool: a test pair has its target if the source's whole x replaces the base's; False in training"""
    reasons: Mapping[int, str]
    """by attribute that cannot be measured"""

    def __len__(self) -> int:
        return len(self.text)

    def select(self, attribute: int, *, test: bool) -> Tensor:
        """Returns the indices of the pairs with which an attribute's latents are trained or tested, (num_pairs,)."""
        return ((self.is_test == test) & (self.attribute == attribute)).nonzero().squeeze(1)

    def batches(self, rows: Tensor, batch_size: int) -> Iterator[PairBatch]:
        """Yields some pairs in batches of texts of similar length."""
        for batch in rows_by_length(self._lengths[rows], batch_size):
            yield self.batch(rows[batch])

    def batch(self, rows: Tensor) -> PairBatch:
        """Returns some pairs as one batch."""
        texts, lengths = self.text[rows], self._lengths[rows]
        starts = self.text_offsets[texts].tolist()
        spans = [slice(start, start + length) for start, length in zip(starts, lengths.tolist(), strict=True)]
        offsets = self.target_offsets
        targets = [self.targets[offsets[row] : offsets[row + 1]] for row in rows.tolist()]
        return PairBatch(
            rows,
            ids=padded([self.ids[span] for span in spans]),
            x=padded([self.x[span] for span in spans]),
            positions=self.position[rows],
            x_source=self.x_sources[self.source[rows]],
            labels=labels_for(lengths, targets),
        )

    @property
    def _lengths(self) -> Tensor:
        """(num_pairs,): tokens of each pair's text."""
        return self.text_offsets.diff()[self.text]
