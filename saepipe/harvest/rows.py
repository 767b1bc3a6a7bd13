"""Runs batches of windows through the model, and turns the activations into rows of the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from saepipe.data.cache.layout import Layout
from saepipe.data.cache.special_tokens import keep_mask
from saepipe.data.errors import ConfigError, CorruptDataError, OutOfSpaceError, is_out_of_memory
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint
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


@dataclass(frozen=True)
class _Activations:
    """Activations of one batch at one hook, on the model's device."""

    x: torch.Tensor
    """(batch, context_size, d_in) bfloat16"""
    norms: torch.Tensor
    """(batch, context_size) float32: of the rounded rows, and finite"""


class RowSource:
    """Runs the model on batches of windows and extracts the rows to store."""

    def __init__(
        self,
        lm: LanguageModel,
        hooks: Sequence[HookPoint],
        norm_limits: Mapping[str, float],
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """
        Args:
            lm: the model.
            hooks: where to take activations.
            norm_limits: by hook, the norm above which training rows are left out; empty for no filter.
            say: is told when batches no longer fit the device's memory and are run in parts from then on.
        """
        self._lm, self._hooks, self._norm_limits, self._say = lm, hooks, norm_limits, say
        self.at_once: int | None = None
        """windows per forward pass, once a whole batch did not fit"""
        self.may_split = lm.model.device.type == "cuda"
        """whether a batch that does not fit is run in parts; on a CPU that could change the rows' last bits"""

    def train(self, batch: WindowBatch) -> Rows:
        """Rows of ordinary tokens, with their norms, contexts and positions."""
        ordinary = keep_mask(batch.ids, self._lm.special_ids)
        activations = self._run(batch)
        norms = {hook: part.norms.cpu().numpy() for hook, part in activations.items()}
        keep = ordinary.copy()
        for hook, limit in self._norm_limits.items():
            keep &= norms[hook] <= limit
        context, position = np.nonzero(keep)
        index = torch.from_numpy(np.flatnonzero(keep))
        arrays = {
            Layout.acts(hook): bits(part.x.flatten(0, 1)[index.to(part.x.device)]) for hook, part in activations.items()
        }
        arrays |= {Layout.norm(hook): norm[keep] for hook, norm in norms.items()}
        arrays[Layout.CONTEXT_ID] = context + batch.first
        arrays[Layout.POSITION] = position.astype(np.int32)
        return Rows(arrays, int(ordinary.sum() - keep.sum()))

    def heldout(self, batch: WindowBatch) -> Rows:
        """Rows of all positions, including BOS, because the layers above attend to it."""
        activations = self._run(batch)
        return Rows({Layout.acts(hook, "heldout"): bits(part.x.flatten(0, 1)) for hook, part in activations.items()})

    def median_norms(self, batch: WindowBatch) -> dict[str, float]:
        """Median norm of ordinary tokens, by hook."""
        keep = torch.from_numpy(keep_mask(batch.ids, self._lm.special_ids))
        return {hook: float(part.norms[keep.to(part.x.device)].median()) for hook, part in self._run(batch).items()}

    def _run(self, batch: WindowBatch) -> dict[str, _Activations]:
        """Activations by hook, in the order of the config's hooks.

        Raises:
            ConfigError: if the model has no such token id.
            CorruptDataError: if an activation is not finite, or its row's norm is not.
            OutOfSpaceError: if the batch does not fit in memory.
        """
        self._check_ids(batch)
        activations = self._capture(torch.from_numpy(batch.ids).long())
        return {str(hook): self._rounded(batch, str(hook), activations[str(hook)]) for hook in self._hooks}

    def _check_ids(self, batch: WindowBatch) -> None:
        wrong = batch.ids.view(np.uint32) >= self._lm.num_ids  # negative ids are larger than any other
        if wrong.any():
            window, position = np.argwhere(wrong)[0]
            raise ConfigError(
                f"document {batch.documents[window, position]} has token id {batch.ids[window, position]}, but the "
                f"model knows only 0 to {self._lm.num_ids - 1}",
                hint="use the tokenizer of this model",
            )

    def _rounded(self, batch: WindowBatch, hook: str, x: torch.Tensor) -> _Activations:
        """Rounds activations to what is stored, and checks that; rounding can make the largest values infinite."""
        rounded = x.bfloat16()
        norms = rounded.float().norm(dim=-1)
        finite = torch.isfinite(norms)
        if finite.all():
            return _Activations(rounded, norms)
        window, position = (int(i) for i in (~finite).nonzero()[0])
        row = x[window, position]
        where = (
            f"at {hook}: document {batch.documents[window, position]}, "
            f"context {batch.first + window}, position {position}"
        )
        if not torch.isfinite(row).all():
            hint = "use another dtype (bfloat16 rather than float16), or leave the document out"
            raise CorruptDataError(f"the model gives NaN or Inf {where}", hint=hint)
        raise CorruptDataError(
            f"the model gives values up to {float(row.abs().max()):.3g} {where}; as bfloat16 they, or their norm in "
            "float32, are infinite",
            hint="check the model, or leave the document out",
        )

    def _capture(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Activations by hook, (batch, context_size, d_in) in the model's dtype; in parts if `at_once` is set."""
        while True:
            try:
                parts = [
                    capture(self._lm.model, part, self._hooks) for part in torch.split(ids, self.at_once or len(ids))
                ]
                return parts[0] if len(parts) == 1 else {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error).partition("\n")[0]
            self._split(ids, problem)  # outside the handler, whose traceback keeps the failed pass's tensors alive

    def _split(self, ids: torch.Tensor, problem: str) -> None:
        """Halves the windows per pass, and says so; raises OutOfSpaceError where it must not or cannot."""
        failed = min(self.at_once or len(ids), len(ids))
        if self.may_split and failed > 1:
            torch.cuda.empty_cache()
            self.at_once = failed // 2
            self._say(f"{failed} contexts do not fit in memory: batches are run {self.at_once} contexts at a time")
            return
        raise OutOfSpaceError(
            f"a batch of {failed} contexts does not fit in memory: {problem}", hint=self._what_would_fit(ids, failed)
        )

    def _what_would_fit(self, ids: torch.Tensor, failed: int) -> str:
        """Finds the largest number of contexts, by halves, that go through the model."""
        while failed := failed // 2:
            try:
                capture(self._lm.model, ids[:failed], self._hooks)
                return f"batch_size: {failed} fits"
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
        return "not even one context fits: use a smaller context_size, a smaller model, or more memory"


def bits(x: torch.Tensor) -> np.ndarray:
    """Converts bfloat16 to uint16 bits of the same shape."""
    return x.contiguous().view(torch.int16).cpu().numpy().view(np.uint16)
