"""Forward passes of batches that may not fit in memory: in parts on CUDA, an error with what would fit elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from saepipe.data.errors import OutOfSpaceError, is_out_of_memory
from saepipe.harvest.capture import Recorder
from saepipe.harvest.hook_point import HookPoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FittingPasses:
    """Runs batches, in parts once a whole one did not fit."""

    def __init__(self, model: PreTrainedModel, hooks: Sequence[HookPoint], say: Callable[[str], None]) -> None:
        """`say` is told when batches no longer fit the device's memory and are run in parts from then on."""
        self._recorder, self._say = Recorder(model, hooks), say
        self.at_once: int | None = None
        """windows per forward pass, once a whole batch did not fit"""
        self.may_split = model.device.type == "cuda"
        """whether a batch that does not fit is run in parts; on a CPU that could change the rows' last bits"""

    def close(self) -> None:
        self._recorder.close()

    def run(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Activations by hook, (batch, context_size, d_in) in the model's dtype.

        Raises:
            OutOfSpaceError: if the batch does not fit in memory, and may not be split or is a single context.
        """
        while True:
            try:
                parts = [self._recorder.run(part) for part in torch.split(ids, self.at_once or len(ids))]
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
                self._recorder.run(ids[:failed])
                return f"batch_size: {failed} fits"
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
        return "not even one context fits: use a smaller context_size, a smaller model, or more memory"
