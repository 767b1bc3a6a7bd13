"""Numbers of tokens, per document, on which the latents of one SAE and chosen pairs of them are active."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saepipe.evaluate.model.testbed import Batch
from saepipe.evaluate.sae.reconstruction import rows_at_a_time
from saepipe.evaluate.sae.subject import Subject


@dataclass(frozen=True)
class PairCounts:
    """Numbers of kept tokens on which the latents of chosen pairs are active."""

    i: np.ndarray
    """(num_documents, num_pairs): tokens with the first latent active"""
    j: np.ndarray
    """(num_documents, num_pairs): tokens with the second latent active"""
    both: np.ndarray
    """(num_documents, num_pairs): tokens with both active"""
    tokens: np.ndarray
    """(num_documents,): all kept tokens"""

    def select(self, pairs: slice) -> PairCounts:
        return PairCounts(self.i[:, pairs], self.j[:, pairs], self.both[:, pairs], self.tokens)


class PairCounter:
    """Streaming counts. A latent is active if its activation is not 0; only chosen pairs of latents are counted."""

    def __init__(self, subject: Subject, i: Tensor, j: Tensor, num_documents: int) -> None:
        self.subject = subject
        paired, columns = torch.unique(torch.cat([i, j]), return_inverse=True)
        self._i, self._j = torch.split(columns, len(i))
        self._num_columns = len(paired) + 1  # the latents of no pair share the last one
        self._column = torch.full((subject.sae.d_sae,), len(paired), device=i.device)
        self._column[paired] = torch.arange(len(paired), device=i.device)
        self._active = torch.zeros(subject.sae.d_sae, dtype=torch.int64, device=i.device)
        self._tokens = torch.zeros(num_documents, dtype=torch.int64, device=i.device)
        shape = (num_documents, len(i))
        zeros = (torch.zeros(shape, dtype=torch.int32, device=i.device) for _ in range(3))
        self._num_i, self._num_j, self._num_both = zeros

    def add(self, batch: Batch) -> None:
        """Encodes the kept tokens of a batch. Raises CorruptDataError if an activation is NaN or Inf."""
        x, documents = batch.x[batch.keep], batch.documents[batch.keep]
        num_rows = rows_at_a_time(self.subject.sae.d_sae)
        for rows, index in zip(torch.split(x, num_rows), torch.split(documents, num_rows), strict=True):
            acts = self.subject.encode_finite(rows)
            self._active += torch.bincount(acts.pattern.columns, minlength=len(self._active))
            self._tokens.index_add_(0, index, torch.ones_like(index))
            active = torch.zeros(len(rows), self._num_columns, dtype=torch.bool, device=rows.device)
            active[acts.pattern.rows, self._column[acts.pattern.columns]] = True
            active_i, active_j = active[:, self._i], active[:, self._j]
            for counts, on in ((self._num_i, active_i), (self._num_j, active_j), (self._num_both, active_i & active_j)):
                counts.index_add_(0, index, on.int())

    @property
    def num_tokens(self) -> int:
        return int(self._tokens.sum())

    @property
    def density(self) -> np.ndarray:
        """(d_sae,) float64: share of kept tokens on which each latent is active."""
        return self._active.double().cpu().numpy() / self.num_tokens

    @property
    def pairs(self) -> PairCounts:
        columns = (self._num_i, self._num_j, self._num_both, self._tokens)
        return PairCounts(*(column.double().cpu().numpy() for column in columns))
