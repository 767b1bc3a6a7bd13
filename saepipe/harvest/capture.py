"""A forward pass that records the residual stream at some hook points and stops after the last of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import torch

from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.residual_hook import hook_residual

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _LastHookReached(Exception):  # noqa: N818 - a jump out of the forward pass, not an error
    pass


@torch.no_grad()
def capture(model: PreTrainedModel, ids: torch.Tensor, hooks: Sequence[HookPoint]) -> dict[str, torch.Tensor]:
    """Records the residual activations at `hooks`, for windows without padding.

    Args:
        model: a causal language model.
        ids: (batch, seq) token ids.
        hooks: the points to record; layers above the last one and the logits are not computed.

    Returns:
        Activations by hook name, (batch, seq, d_in) in the model's dtype, on the model's device.
    """
    recorded: dict[str, torch.Tensor] = {}
    with _recording(model, hooks, recorded), suppress(_LastHookReached):
        model.base_model(input_ids=ids.to(model.device), use_cache=False)
    return recorded


@contextmanager
def _recording(model: PreTrainedModel, hooks: Sequence[HookPoint], recorded: dict[str, torch.Tensor]) -> Iterator[None]:
    names = {str(hook) for hook in hooks}

    def record(hook: HookPoint, x: torch.Tensor) -> None:
        recorded[str(hook)] = x
        if recorded.keys() == names:
            raise _LastHookReached

    with ExitStack() as handles:
        for hook in hooks:
            handles.enter_context(hook_residual(model, hook, partial(record, hook)))
        yield
