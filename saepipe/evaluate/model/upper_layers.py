"""The model from the hook upward: stored activations go in, logits come out, and the layers below never run.

The layers below the hook are swapped for modules that pass their input on. They keep their places in the model's
list: Gemma-2 chooses sliding or full attention by a layer's index, so cutting the list short instead would shift
that pattern, unseen while the context fits the window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from saepipe.harvest.hooks import HookPoint, decoder_layers

Resume = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(ids (batch, seq), x (batch, seq, d_in)) -> logits (batch, seq, vocab) in the model's dtype."""


class PassThrough(nn.Module):
    """Stands where a decoder layer stood; returns the residual stream as it came."""

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return hidden_states


@contextmanager
def resumed(model: PreTrainedModel, hook: HookPoint) -> Iterator[Resume]:
    """A function that runs `model` from `hook` upward, on windows without padding.

    The ids only give the model its shapes and positions; what stands at the hook is x. The model is whole again
    when the context ends, and until then it must not be used in another way.

    Raises:
        ConfigError: if the model has no such hook.
    """
    hook.check_in(model)
    layers = decoder_layers(model)
    below = list(layers[: hook.num_layers_below])
    fed: torch.Tensor

    def feed(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return ((fed, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": fed})

    def resume(ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        nonlocal fed
        fed = x.to(model.device, model.dtype)
        return model(input_ids=ids.to(model.device), use_cache=False).logits

    for index in range(len(below)):
        layers[index] = PassThrough()
    handle = layers[0].register_forward_pre_hook(feed, with_kwargs=True)
    try:
        yield resume
    finally:
        handle.remove()
        for index, layer in enumerate(below):
            layers[index] = layer
