"""Streaming sums per document, from which all means, ratios and intervals of the core metrics are computed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from saepipe.data.errors import CorruptDataError


class DocumentSums:
    """Named sums of per-token values by document, in float64, which makes them independent of the batch size."""

    def __init__(self, num_documents: int, owner: str) -> None:
        self.num_documents = num_documents
        self.owner = owner
        self._columns: dict[str, np.ndarray] = {}

    def add(self, documents: torch.Tensor, values: Mapping[str, torch.Tensor]) -> None:
        """Adds one batch.

        Args:
            documents: (num_tokens,) index of each token's document, below num_documents.
            values: (num_tokens,) each, by name.

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
