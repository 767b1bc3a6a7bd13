"""Streaming sums, one a document: every mean, ratio and interval of the core metrics is made of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from saepipe.data.errors import CorruptDataError


class Sums:
    """Named sums of per-token values, in float64: by document, and in all for each batch.

    Sums over documents do not depend on how the tokens were batched; those by batch are kept for the reference's
    formulas, which do.
    """

    def __init__(self, num_documents: int, owner: str) -> None:
        self.num_documents = num_documents
        self.owner = owner
        self.batches: list[dict[str, float]] = []
        self._columns: dict[str, np.ndarray] = {}

    def add(self, documents: torch.Tensor, values: Mapping[str, torch.Tensor]) -> None:
        """Adds one batch.

        Args:
            documents: (num_tokens,) index of each token's document, below num_documents.
            values: by name, (num_tokens,) each.

        Raises:
            CorruptDataError: if a value is NaN or Inf.
        """
        index = documents.cpu().numpy()
        batch = {}
        for name, value in values.items():
            weights = value.to(torch.float64).cpu().numpy()
            if not np.isfinite(weights).all():
                raise CorruptDataError(f"{self.owner} on held-out tokens: {name} is NaN or Inf")
            batch[name] = float(weights.sum())
            column = np.bincount(index, weights=weights, minlength=self.num_documents)
            self._columns[name] = self._columns.get(name, 0.0) + column
        self.batches.append(batch)

    def __getitem__(self, name: str) -> np.ndarray:
        """(num_documents,) float64."""
        return self._columns[name]

    def total(self, name: str) -> float:
        return float(self._columns[name].sum())
