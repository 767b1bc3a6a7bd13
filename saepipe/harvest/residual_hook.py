"""A function that sees, and may replace, the residual stream at a hook point of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from saepipe.harvest.decoder_layers import decoder_layers, layer_output
from saepipe.harvest.hook_point import HookPoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

See = Callable[[torch.Tensor], torch.Tensor | None]
"""x (batch, seq, d_in) at the hook -> what replaces it, of the same shape; None leaves it as it is."""


def hook_residual(model: PreTrainedModel, hook: HookPoint, see: See) -> RemovableHandle:
    """Calls `see` in each forward pass that reaches `hook`, until the handle is removed.

    Raises:
        ConfigError: if the model does not have the hook.
        MachineError: if its decoder layers are not in a known place.
    """
    layers = decoder_layers(model)
    hook.check_in(len(layers))
    layer = layers[hook.layer]
    if hook.kind == "resid_post":
        return layer.register_forward_hook(_on_output(see))
    return layer.register_forward_pre_hook(_on_input(see), with_kwargs=True)


def _on_input(see: See) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]:
    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = see(args[0] if args else kwargs["hidden_states"])
        if x is None:
            return None
        return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x})

    return before


def _on_output(see: See) -> Callable[[nn.Module, Any, Any], Any]:
    def after(_: nn.Module, __: Any, output: Any) -> Any:
        x = see(layer_output(output))
        if x is None:
            return None
        return x if isinstance(output, torch.Tensor) else (x, *output[1:])

    return after
