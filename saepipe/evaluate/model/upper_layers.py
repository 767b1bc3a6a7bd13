"""The model from the hook upward: stored activations go in, logits come out.

Between two layers, the layers below do not run. They are replaced by modules that compute nothing, and keep their
indices in the model's list: Gemma-2 chooses sliding or full attention by a layer's index, so shortening the list
would shift that pattern, unnoticed as long as the context fits the window. Inside a layer the rest of the residual
stream is needed too, so the whole model runs, and its activations at the hook are replaced. So it does where layers
above read keys and values of layers below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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


class SkippedLayer(nn.Module):
    """Takes the place of a decoder layer. What it gives is replaced at the hook, and must only be a tensor.

    Some models take the first element of what a layer gives, which is a tensor too.
    """

    def __init__(self, current: Callable[[], torch.Tensor]) -> None:
        super().__init__()
        self._current = current

    def forward(self, *_: Any, **__: Any) -> torch.Tensor:
        return self._current()


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

    def current(*_: torch.Tensor) -> torch.Tensor:
        return at_hook

    with ExitStack() as handles:
        for replaced in handles.enter_context(_without_lower_layers(model, hook, current)):
            handles.enter_context(hook_site(model, replaced, current))
        yield run_upper


@contextmanager
def _without_lower_layers(
    model: PreTrainedModel, hook: HookPoint, current: Callable[[], torch.Tensor]
) -> Iterator[list[HookPoint]]:
    """Takes out the layers that need not run, and yields the hooks whose activations are then to be replaced."""
    layers = decoder_layers(model)
    hook.check_in(len(layers))
    # Layers that share keys and values (Gemma-4) read what a layer below has stored.
    shared = getattr(model.config.get_text_config(), "num_kv_shared_layers", 0)
    if shared or not hook.is_between_layers:
        yield [hook]
        return
    # What a layer gives is what the next one gets. After the last there is none, so that one runs, too.
    first = min(hook.num_layers_below, len(layers) - 1)
    replaced = [HookPoint(first, "hook_resid_pre"), *([hook] if hook.num_layers_below > first else [])]
    lower = list(layers[:first])
    for index in range(len(lower)):
        layers[index] = SkippedLayer(current)
    try:
        yield replaced
    finally:
        for index, layer in enumerate(lower):
            layers[index] = layer
