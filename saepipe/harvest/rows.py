"""Runs batches of windows through the model, and turns the activations into rows of the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from saepipe.data.cache.layout import Layout
from saepipe.data.cache.special_tokens import keep_mask
from saepipe.data.errors import CorruptDataError
from saepipe.harvest.capture import capture
from saepipe.harvest.hooks import HookPoint
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.tokenize import Window


@dataclass(frozen=True)
class WindowBatch:
    """Windows of one forward pass. ids and documents are (batch, context_size); first is the first window's number."""

    first: int
    ids: np.ndarray
    documents: np.ndarray
    text: str = ""
    """digest of all windows that were read until the end of this batch; empty if none is wanted"""

    @classmethod
    def of(cls, first: int, windows: Sequence[Window], text: str = "") -> WindowBatch:
        ids = np.stack([window.ids for window in windows])
        return cls(first, ids, np.stack([window.documents for window in windows]), text)


@dataclass(frozen=True)
class Rows:
    """Rows of one batch: arrays (num_rows, ...) by array name, and the number of rows left out for their norm."""

    arrays: Mapping[str, np.ndarray]
    num_dropped: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def slice(self, start: int, stop: int) -> dict[str, np.ndarray]:
        return {name: values[start:stop] for name, values in self.arrays.items()}


class RowSource:
    """Runs the model on batches of windows and extracts the rows to store."""

    def __init__(self, lm: LanguageModel, hooks: Sequence[HookPoint], norm_limits: Mapping[str, float]) -> None:
        """`norm_limits` gives, by hook, the norm above which training rows are left out; empty for no filter."""
        self._lm, self._hooks, self._norm_limits = lm, hooks, norm_limits

    def train(self, batch: WindowBatch) -> Rows:
        """Rows of ordinary tokens, with their norms, contexts and positions."""
        ordinary = keep_mask(batch.ids, self._lm.special_ids)
        activations = self._run(batch)
        norms = {hook: x.float().norm(dim=-1).cpu().numpy() for hook, x in activations.items()}
        keep = ordinary.copy()
        for hook, limit in self._norm_limits.items():
            keep &= norms[hook] <= limit
        context, position = np.nonzero(keep)
        index = torch.from_numpy(np.flatnonzero(keep))
        arrays = {Layout.acts(hook): bits(x.flatten(0, 1)[index.to(x.device)]) for hook, x in activations.items()}
        arrays |= {Layout.norm(hook): norm[keep] for hook, norm in norms.items()}
        arrays[Layout.CONTEXT_ID] = context + batch.first
        arrays[Layout.POSITION] = position.astype(np.int32)
        return Rows(arrays, int(ordinary.sum() - keep.sum()))

    def heldout(self, batch: WindowBatch) -> Rows:
        """Rows of all positions, including BOS, because the layers above attend to it."""
        return Rows({Layout.acts(hook, "heldout"): bits(x.flatten(0, 1)) for hook, x in self._run(batch).items()})

    def median_norms(self, batch: WindowBatch) -> dict[str, float]:
        """Median norm of ordinary tokens, by hook."""
        keep = torch.from_numpy(keep_mask(batch.ids, self._lm.special_ids))
        return {hook: float(x[keep.to(x.device)].float().norm(dim=-1).median()) for hook, x in self._run(batch).items()}

    def _run(self, batch: WindowBatch) -> dict[str, torch.Tensor]:
        """Activations by hook, (batch, context_size, d_in) bfloat16, in the order of the config's hooks."""
        activations = capture(self._lm.model, torch.from_numpy(batch.ids).long(), self._hooks)
        for hook, x in activations.items():
            finite = torch.isfinite(x).all(dim=-1)
            if not finite.all():
                window, position = (int(i) for i in (~finite).nonzero()[0])
                raise CorruptDataError(
                    f"the model gives NaN or Inf at {hook}: document {batch.documents[window, position]}, "
                    f"context {batch.first + window}, position {position}",
                    hint="use another dtype (bfloat16 rather than float16), or leave the document out",
                )
        return {str(hook): activations[str(hook)].bfloat16() for hook in self._hooks}


def bits(x: torch.Tensor) -> np.ndarray:
    """Converts bfloat16 to uint16 bits of the same shape."""
    return x.contiguous().view(torch.int16).cpu().numpy().view(np.uint16)
