"""The model from the hook upward: stored activations go in, logits come out, and the layers below never run.

The layers below the hook are replaced by modules that pass their input through. They keep their indices in the model's
list: Gemma-2 chooses sliding or full attention by a layer's index, so shortening the list would shift that pattern,
unnoticed as long as the context fits the window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from saepipe.harvest.decoder_layers import decoder_layers
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.residual_hook import hook_residual

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UpperLayers = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(ids (batch, seq), x (batch, seq, d_in)) -> logits (batch, seq, vocab) in the model's dtype."""


class PassThrough(nn.Module):
    """Takes the place of a decoder layer; returns the residual stream unchanged."""

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return hidden_states


@contextmanager
def upper_layers(model: PreTrainedModel, hook: HookPoint) -> Iterator[UpperLayers]:
    """Yields a function that runs `model` from `hook` upward, on windows without padding.

    The ids only give the model its shapes and positions; its input at the hook is x. The model is restored when the
    context ends; until then it must not be used in any other way.

    Raises:
        ConfigError: if the model does not have the hook.
    """
    layers = decoder_layers(model)
    hook.check_in(len(layers))
    lower = list(layers[: hook.num_layers_below])
    at_hook: torch.Tensor

    def run_upper(ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        nonlocal at_hook
        at_hook = x.to(model.device, model.dtype)
        return model(input_ids=ids.to(model.device), use_cache=False).logits

    for index in range(len(lower)):
        layers[index] = PassThrough()
    handle = hook_residual(model, HookPoint(0, "resid_pre"), lambda _: at_hook)
    try:
        yield run_upper
    finally:
        handle.remove()
        for index, layer in enumerate(lower):
            layers[index] = layer
