"""The model from the hook upward: stored activations go in, logits come out.

Between two layers, the layers below never run. They are replaced by modules that pass their input through, and keep
their indices in the model's list: Gemma-2 chooses sliding or full attention by a layer's index, so shortening the list
would shift that pattern, unnoticed as long as the context fits the window. Inside a layer the rest of the residual
stream is needed too, so the whole model runs, and its activations at the hook are replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from saepipe.harvest.decoder_layers import decoder_layers
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.site_hook import hook_site

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UpperLayers = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(ids (batch, seq), x (batch, seq, d_in)) -> logits (batch, seq, vocab) in the model's dtype."""


class PassThrough(nn.Module):
    """Takes the place of a decoder layer; returns the residual stream unchanged, as a tensor or first in a tuple."""

    def __init__(self, *, in_tuple: bool) -> None:
        super().__init__()
        self._in_tuple = in_tuple

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor | tuple[torch.Tensor, None]:
        return (hidden_states, None) if self._in_tuple else hidden_states


@contextmanager
def upper_layers(model: PreTrainedModel, hook: HookPoint) -> Iterator[UpperLayers]:
    """Yields a function that runs `model` with given activations at `hook`, on windows without padding.

    Between two layers the ids only give the model its shapes and positions. The model is restored when the context
    ends; until then it must not be used in any other way.

    Raises:
        ConfigError: if the model does not have the hook.
    """
    at_hook: torch.Tensor

    def run_upper(ids: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        nonlocal at_hook
        at_hook = x.to(model.device, model.dtype)
        return model(input_ids=ids.to(model.device), use_cache=False).logits

    with _without_lower_layers(model, hook) as replaced, hook_site(model, replaced, lambda _: at_hook):
        yield run_upper


@contextmanager
def _without_lower_layers(model: PreTrainedModel, hook: HookPoint) -> Iterator[HookPoint]:
    """Takes out the layers that need not run, and yields the hook whose activations are then to be replaced."""
    layers = decoder_layers(model)
    hook.check_in(len(layers))
    if not hook.is_between_layers:
        yield hook
        return
    lower = list(layers[: hook.num_layers_below])
    in_tuple = bool(lower) and _gives_tuples(model, lower[0])
    for index in range(len(lower)):
        layers[index] = PassThrough(in_tuple=in_tuple)
    try:
        yield HookPoint(0, "hook_resid_pre")
    finally:
        for index, layer in enumerate(lower):
            layers[index] = layer


@torch.no_grad()
def _gives_tuples(model: PreTrainedModel, layer: nn.Module) -> bool:
    """Returns whether a decoder layer gives a tuple, as in some families; sends one token through the model."""
    kinds: list[type] = []
    with layer.register_forward_hook(lambda _, __, output: kinds.append(type(output))):
        model.base_model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=model.device), use_cache=False)
    return issubclass(kinds[0], tuple)
