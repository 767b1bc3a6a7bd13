"""A batch of windows through the model, as the rows that a cache stores of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from saepipe.data.cache.tokens import keep_mask
from saepipe.data.errors import CorruptDataError
from saepipe.harvest.capture import capture
from saepipe.harvest.hooks import HookPoint
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.tokenize import Window


@dataclass(frozen=True)
class WindowBatch:
    """Windows of one forward pass. ids and documents are (batch, context_size); first is the first one's number."""

    first: int
    ids: np.ndarray
    documents: np.ndarray

    @classmethod
    def of(cls, first: int, windows: Sequence[Window]) -> WindowBatch:
        ids = np.stack([window.ids for window in windows])
        return cls(first, ids, np.stack([window.documents for window in windows]))


@dataclass(frozen=True)
class Rows:
    """arrays: by array name, (num_rows, ...). num_dropped counts rows left out for their norm."""

    arrays: Mapping[str, np.ndarray]
    num_dropped: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def slice(self, start: int, stop: int) -> dict[str, np.ndarray]:
        return {name: values[start:stop] for name, values in self.arrays.items()}


class RowSource:
    """Runs the model on batches of windows and keeps what the cache wants."""

    def __init__(self, lm: LanguageModel, hooks: Sequence[HookPoint], norm_limits: Mapping[str, float]) -> None:
        """`norm_limits`: by hook, the norm above which a training row is left out; empty for no filter."""
        self._lm, self._hooks, self._norm_limits = lm, hooks, norm_limits

    def train(self, batch: WindowBatch) -> Rows:
        """Rows of ordinary tokens, with their norms, contexts and positions."""
        keep = keep_mask(batch.ids, self._lm.special_ids)
        activations = self._run(batch)
        norms = {hook: x.float().norm(dim=-1).cpu().numpy() for hook, x in activations.items()}
        wanted = keep.copy()
        for hook, limit in self._norm_limits.items():
            wanted &= norms[hook] <= limit
        context, position = np.nonzero(wanted)
        index = torch.from_numpy(np.flatnonzero(wanted))
        arrays = {f"acts/{hook}": bits(x.flatten(0, 1)[index.to(x.device)]) for hook, x in activations.items()}
        arrays |= {f"norm/{hook}": norm[wanted] for hook, norm in norms.items()}
        arrays["context_id"] = context + batch.first
        arrays["position"] = position.astype(np.int32)
        return Rows(arrays, int(keep.sum() - wanted.sum()))

    def heldout(self, batch: WindowBatch) -> Rows:
        """Rows of all positions, BOS too: the layers above attend to it."""
        return Rows({f"heldout/acts/{hook}": bits(x.flatten(0, 1)) for hook, x in self._run(batch).items()})

    def median_norms(self, batch: WindowBatch) -> dict[str, float]:
        """By hook, of ordinary tokens."""
        keep = torch.from_numpy(keep_mask(batch.ids, self._lm.special_ids))
        return {hook: float(x[keep.to(x.device)].float().norm(dim=-1).median()) for hook, x in self._run(batch).items()}

    def _run(self, batch: WindowBatch) -> dict[str, torch.Tensor]:
        """By hook, (batch, context_size, d_in) bfloat16, in the order of the config's hooks."""
        kept = capture(self._lm.model, torch.from_numpy(batch.ids).long(), self._hooks)
        for hook, x in kept.items():
            finite = torch.isfinite(x).all(dim=-1)
            if not finite.all():
                where, position = (int(i) for i in (~finite).nonzero()[0])
                raise CorruptDataError(
                    f"the model gives NaN or Inf at {hook}: document {batch.documents[where, position]}, "
                    f"context {batch.first + where}, position {position}",
                    hint="another dtype (bfloat16 rather than float16), or leave the document out",
                )
        return {str(hook): kept[str(hook)].bfloat16() for hook in self._hooks}


def bits(x: torch.Tensor) -> np.ndarray:
    """bfloat16 as uint16 bits, same shape."""
    return x.contiguous().view(torch.int16).cpu().numpy().view(np.uint16)
