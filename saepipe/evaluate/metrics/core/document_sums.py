"""Streaming sums, one a document: every mean, ratio and interval of the core metrics is made of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from saepipe.data.errors import CorruptDataError


class Sums:
    """Named sums of per-token values, in float64, by document: they do not depend on how tokens were batched."""

    def __init__(self, num_documents: int, owner: str) -> None:
        self.num_documents = num_documents
        self.owner = owner
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
        for name, value in values.items():
            weights = value.to(torch.float64).cpu().numpy()
            if not np.isfinite(weights).all():
                raise CorruptDataError(f"{self.owner} on held-out tokens: {name} is NaN or Inf")
            column = np.bincount(index, weights=weights, minlength=self.num_documents)
            self._columns[name] = self._columns.get(name, 0.0) + column

    def __getitem__(self, name: str) -> np.ndarray:
        """(num_documents,) float64."""
        return self._columns[name]

    def total(self, name: str) -> float:
        return float(self._columns[name].sum())
