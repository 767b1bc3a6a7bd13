"""On which tokens the latents of one SAE are active, and chosen pairs of them together, document by document."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.model.testbed import Batch
from saepipe.evaluate.sae.reconstruction import rows_at_a_time
from saepipe.evaluate.sae.subject import Subject


@dataclass(frozen=True)
class PairCounts:
    """Kept tokens on which latents of chosen pairs are active."""

    i: np.ndarray
    """(num_documents, num_pairs): the first of the pair"""
    j: np.ndarray
    """(num_documents, num_pairs): the second"""
    both: np.ndarray
    """(num_documents, num_pairs)"""
    tokens: np.ndarray
    """(num_documents,): all of them"""

    def at(self, pairs: slice) -> PairCounts:
        return PairCounts(self.i[:, pairs], self.j[:, pairs], self.both[:, pairs], self.tokens)


class Firing:
    """Streaming counts. A latent is active where its activation is not 0; of all pairs, only the chosen are counted."""

    def __init__(self, subject: Subject, i: Tensor, j: Tensor, num_documents: int) -> None:
        self.subject, self._i, self._j = subject, i, j
        self._active = torch.zeros(subject.sae.d_sae, dtype=torch.int64, device=i.device)
        self._tokens = torch.zeros(num_documents, dtype=torch.int64, device=i.device)
        shape = (num_documents, len(i))
        self._of_i, self._of_j, self._of_both = (
            torch.zeros(shape, dtype=torch.int32, device=i.device) for _ in range(3)
        )

    def add(self, batch: Batch) -> None:
        """Encodes the kept tokens of a batch; raises CorruptDataError if an activation is NaN or Inf."""
        x, documents = batch.x[batch.keep], batch.documents[batch.keep]
        num_rows = rows_at_a_time(self.subject.sae.d_sae)
        for rows, index in zip(torch.split(x, num_rows), torch.split(documents, num_rows), strict=True):
            acts = self.subject.encode(rows)
            if not acts.sum().isfinite():
                raise CorruptDataError(f"the SAE of {self.subject.name} on held-out tokens: NaN or Inf")
            active = acts != 0
            self._active += active.sum(0)
            self._tokens.index_add_(0, index, torch.ones_like(index))
            on_i, on_j = active[:, self._i], active[:, self._j]
            for counts, on in ((self._of_i, on_i), (self._of_j, on_j), (self._of_both, on_i & on_j)):
                counts.index_add_(0, index, on.int())

    @property
    def num_tokens(self) -> int:
        return int(self._tokens.sum())

    @property
    def density(self) -> np.ndarray:
        """(d_sae,) float64: the share of kept tokens on which each latent is active."""
        return self._active.double().cpu().numpy() / self.num_tokens

    @property
    def pairs(self) -> PairCounts:
        columns = (self._of_i, self._of_j, self._of_both, self._tokens)
        return PairCounts(*(column.double().cpu().numpy() for column in columns))
