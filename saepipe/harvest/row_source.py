"""Runs batches of windows through the model, and turns the activations into rows of the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from saepipe.data.batches.staging_memory import to_bits
from saepipe.data.cache.layout import Layout, Split
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.harvest.capture import Recorder
from saepipe.harvest.fitting_batches import FittingBatches
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.host_copies import Wait, host_copies
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.rows import PendingRows, Rows, WindowBatch
from saepipe.harvest.selection import FINITE, INDEX, NUM_KEPT, Activations, pack_heldout, pack_train


class RowSource:
    """Runs the model on batches of windows and extracts the rows to store. Threads may start batches at once."""

    def __init__(
        self,
        lm: LanguageModel,
        hooks: Sequence[HookPoint],
        norm_limits: Mapping[str, float],
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """
        Args:
            lm: the model; it is hooked into until `close`.
            hooks: where to take activations.
            norm_limits: by hook, the norm above which training rows are left out; empty for no filter.
            say: is told when batches no longer fit in memory and are run in parts from then on.
        """
        self._lm, self._hooks, self._norm_limits = lm, hooks, norm_limits
        self.device: torch.device = lm.model.device
        self.runs_in_threads = lm.runs_in_threads and self.device.type == "cpu"
        self._recorder = Recorder(lm.model, hooks)
        self.batches = FittingBatches(self._start, say)
        self._copies = host_copies(self.device)

    def close(self) -> None:
        self._recorder.close()

    def most_rows(self, batch: WindowBatch, split: Split) -> int:
        """Number of rows that a batch gives unless norms are too large: ordinary tokens, or held-out positions."""
        return batch.ids.size if split == "heldout" else int(batch.keep(self._lm.special_ids).sum())

    def start(self, batch: WindowBatch, split: Split) -> PendingRows:
        """Starts a batch. On CUDA this returns before the device has done it, on a CPU after the pass.

        Raises:
            ConfigError: if the model has no such token id.
            OutOfSpaceError: if a single context does not fit in memory.
        """
        return self.batches.start(batch, split)

    def _start(self, batch: WindowBatch, split: Split) -> PendingRows:
        activations = self._run(batch)
        if split == "heldout":
            wait = self._copies.download(pack_heldout(activations))
            return PendingRows(batch.ids.size, partial(self._heldout, batch, activations, wait))
        candidates = torch.from_numpy(np.flatnonzero(batch.keep(self._lm.special_ids)))
        wait = self._copies.download(pack_train(activations, self._copies.upload(candidates), self._norm_limits))
        return PendingRows(len(candidates), partial(self._train, batch, activations, wait))

    def train(self, batch: WindowBatch) -> Rows:
        """Rows of ordinary tokens, with their norms, contexts and positions; raises CorruptDataError like `start`."""
        return self.start(batch, "train").wait()

    def heldout(self, batch: WindowBatch) -> Rows:
        """Rows of all positions, including BOS, because the layers above attend to it."""
        return self.start(batch, "heldout").wait()

    def median_norms(self, batch: WindowBatch) -> dict[str, float]:
        """Median norm of ordinary tokens, by hook."""
        rows = self.train(batch)
        return {
            str(hook): float(torch.from_numpy(rows.arrays[Layout.norm(str(hook))]).median()) for hook in self._hooks
        }

    def _run(self, batch: WindowBatch) -> dict[str, Activations]:
        """Activations by hook, in the order of the config's hooks."""
        self._check_ids(batch)
        x = self._recorder.run(self._copies.upload(torch.from_numpy(batch.ids).long()))
        return {str(hook): Activations.of(x[str(hook)]) for hook in self._hooks}

    def _check_ids(self, batch: WindowBatch) -> None:
        wrong = batch.ids.view(np.uint32) >= self._lm.num_ids  # negative ids are larger than any other
        if wrong.any():
            window, position = np.argwhere(wrong)[0]
            raise ConfigError(
                f"document {batch.documents[window, position]} has token id {batch.ids[window, position]}, but the "
                f"model knows only 0 to {self._lm.num_ids - 1}",
                hint="use the tokenizer of this model",
            )

    def _train(self, batch: WindowBatch, activations: Mapping[str, Activations], wait: Wait) -> Rows:
        tensors = wait()
        _check_finite(batch, activations, tensors.pop(FINITE))
        index, num_kept = tensors.pop(INDEX).numpy(), int(tensors.pop(NUM_KEPT))
        arrays = {name: _stored(tensor)[:num_kept] for name, tensor in tensors.items()}
        context, position = np.divmod(index[:num_kept], batch.ids.shape[1])
        arrays[Layout.CONTEXT_ID] = context + batch.first
        arrays[Layout.POSITION] = position.astype(np.int32)
        return Rows(arrays, len(index) - num_kept)

    def _heldout(self, batch: WindowBatch, activations: Mapping[str, Activations], wait: Wait) -> Rows:
        tensors = wait()
        _check_finite(batch, activations, tensors.pop(FINITE))
        return Rows({name: _stored(tensor) for name, tensor in tensors.items()})


def _stored(tensor: torch.Tensor) -> np.ndarray:
    return to_bits(tensor) if tensor.dtype == torch.int16 else tensor.numpy()


def _check_finite(batch: WindowBatch, activations: Mapping[str, Activations], finite: torch.Tensor) -> None:
    """Raises CorruptDataError for the first hook with a row that is not finite, or whose norm is not."""
    if finite.all():
        return
    hook, part = list(activations.items())[int(finite.logical_not().nonzero()[0])]
    window, position = (int(i) for i in part.finite.logical_not().nonzero()[0])
    row = part.x[window, position]
    where = (
        f"at {hook}: document {batch.documents[window, position]}, context {batch.first + window}, position {position}"
    )
    if not torch.isfinite(row).all():
        hint = "use another dtype (bfloat16 rather than float16), or leave the document out"
        raise CorruptDataError(f"the model gives NaN or Inf {where}", hint=hint)
    raise CorruptDataError(
        f"the model gives values up to {float(row.abs().max()):.3g} {where}; as bfloat16 they, or their norm in "
        "float32, are infinite",
        hint="check the model, or leave the document out",
    )
