"""Forward passes that record activations at some hook points and stop after the last of them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from functools import partial
from threading import local
from typing import TYPE_CHECKING

import torch

from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.site_hook import hook_site

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _LastHookReached(Exception):  # noqa: N818 - a jump out of the forward pass, not an error
    pass


class Recorder:
    """Hooks into a model until it is closed. Several threads may run passes at once; each sees only its own."""

    def __init__(self, model: PreTrainedModel, hooks: Sequence[HookPoint]) -> None:
        """
        Args:
            model: a causal language model.
            hooks: the points to record; layers above the last one and the logits are not computed.
        """
        self._model, self._names = model, {str(hook) for hook in hooks}
        self._pass = local()
        self._handles = ExitStack()
        for hook in hooks:
            self._handles.enter_context(hook_site(model, hook, partial(self._record, str(hook))))

    def close(self) -> None:
        self._handles.close()

    @torch.no_grad()
    def run(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Runs windows without padding, (batch, seq) token ids on any device.

        Returns:
            Activations by hook name, (batch, seq, d_in) in the model's dtype, on the model's device.
        """
        recorded: dict[str, torch.Tensor] = {}
        self._pass.recorded = recorded
        try:
            with suppress(_LastHookReached):
                self._model.base_model(input_ids=ids.to(self._model.device), use_cache=False)
        finally:
            del self._pass.recorded
        return {name: x.to(self._model.device) for name, x in recorded.items()}  # which may be on several

    def _record(self, name: str, x: torch.Tensor) -> None:
        recorded: dict[str, torch.Tensor] | None = getattr(self._pass, "recorded", None)
        if recorded is None:  # the pass of another thread, which does not record
            return
        recorded[name] = x
        if recorded.keys() == self._names:
            raise _LastHookReached


def capture(model: PreTrainedModel, ids: torch.Tensor, hooks: Sequence[HookPoint]) -> dict[str, torch.Tensor]:
    """Records a single pass, as `Recorder.run` does."""
    with closing(Recorder(model, hooks)) as recorder:
        return recorder.run(ids)
