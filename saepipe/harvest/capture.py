"""One forward pass that keeps the residual stream at some hook points and goes no further than the last of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from transformers import PreTrainedModel

from saepipe.harvest.hooks import HookPoint, decoder_layers, layer_output


class _LastHookReached(Exception):  # noqa: N818 - a jump out of the forward pass, not an error
    pass


@torch.no_grad()
def capture(model: PreTrainedModel, ids: torch.Tensor, hooks: Sequence[HookPoint]) -> dict[str, torch.Tensor]:
    """Residual activations at `hooks` for windows without padding.

    Args:
        model: a causal language model.
        ids: (batch, seq) token ids.
        hooks: the points to keep; the layers above the last one and the logits are not computed.

    Returns:
        By hook name, (batch, seq, d_in) in the model's dtype, on the model's device.
    """
    kept: dict[str, torch.Tensor] = {}
    with _recording(model, hooks, kept), suppress(_LastHookReached):
        model.base_model(input_ids=ids.to(model.device), use_cache=False)
    return kept


@contextmanager
def _recording(model: PreTrainedModel, hooks: Sequence[HookPoint], kept: dict[str, torch.Tensor]) -> Iterator[None]:
    wanted = {str(hook) for hook in hooks}

    def keep(hook: HookPoint, x: torch.Tensor) -> None:
        kept[str(hook)] = x
        if kept.keys() == wanted:
            raise _LastHookReached

    handles = []
    for hook in hooks:
        layer = decoder_layers(model)[hook.layer]
        if hook.kind == "resid_pre":

            def before(_: Any, args: Any, kwargs: Any, hook: HookPoint = hook) -> None:
                keep(hook, args[0] if args else kwargs["hidden_states"])

            handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
        else:

            def after(_: Any, args: Any, output: Any, hook: HookPoint = hook) -> None:
                keep(hook, layer_output(output))

            handles.append(layer.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
