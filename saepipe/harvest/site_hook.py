"""A function that sees, and may replace, the activations at a hook point of a model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from threading import local
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from saepipe.harvest.decoder_layers import layer_output
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.sites import Site, layer_of, site_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

See = Callable[[torch.Tensor], torch.Tensor | None]
"""x (batch, seq, d_in) at the hook -> what replaces it, of the same shape; None leaves it as it is."""


def hook_site(model: PreTrainedModel, hook: HookPoint, see: See) -> ExitStack:
    """Calls `see` in each forward pass that reaches `hook`, until the stack that it returns is closed.

    Raises:
        ConfigError: if the model does not have the hook.
        MachineError: if its decoder layers are not in a known place.
    """
    layer, handles = layer_of(model, hook), ExitStack()
    if hook.kind == "hook_resid_pre":
        handles.enter_context(layer.register_forward_pre_hook(_on_input(see), with_kwargs=True))
    elif hook.kind == "hook_resid_post":
        handles.enter_context(layer.register_forward_hook(_on_output(see)))
    else:
        _hook_inside(model, layer, hook, see, handles)
    return handles


def _hook_inside(model: PreTrainedModel, layer: nn.Module, hook: HookPoint, see: See, handles: ExitStack) -> None:
    layer_input, site = _LayerInput(), site_of(model, hook)  # first what may raise, then hooks
    if hook.kind == "hook_resid_mid" and site.side == "input":
        # The layer adds it to the MLP's output by another way, so it is replaced by way of what attention adds to x.
        site, see = site_of(model, HookPoint(hook.layer, "hook_attn_out")), _through_attention(see, layer_input)
    seen = _as_stored(see, site, layer_input)
    module = layer.get_submodule(site.module)
    handles.enter_context(layer.register_forward_pre_hook(_on_input(layer_input.keep), with_kwargs=True))
    if site.side == "input":
        handles.enter_context(module.register_forward_pre_hook(_on_input(seen), with_kwargs=True))
    else:
        handles.enter_context(module.register_forward_hook(_on_output(seen)))


class _LayerInput:
    """What a decoder layer got in the pass of this thread, (batch, seq, hidden_size)."""

    def __init__(self) -> None:
        self._pass = local()

    def keep(self, x: torch.Tensor) -> None:
        self._pass.x = x

    @property
    def x(self) -> torch.Tensor:
        x: torch.Tensor = self._pass.x
        return x


def _through_attention(see: See, layer_input: _LayerInput) -> See:
    """Makes a function that sees x + attn_out out of one that sees resid_mid."""

    def see_attn_out(attn_out: torch.Tensor) -> torch.Tensor | None:
        replaced = see(layer_input.x + attn_out)
        return None if replaced is None else replaced - layer_input.x

    return see_attn_out


def _as_stored(see: See, site: Site, layer_input: _LayerInput) -> See:
    """Makes a function of a module's tensor out of one of the site's activations (batch, seq, d_in)."""

    def see_tensor(tensor: torch.Tensor) -> torch.Tensor | None:
        x = tensor.view(*layer_input.x.shape[:2], tensor.shape[-1])  # OPT's MLP has (batch * seq, d_in)
        # Copies both ways: Falcon adds the attention's output to the MLP's in place.
        replaced = see(x * site.factor)
        return None if replaced is None else (replaced / site.factor).view(tensor.shape)

    return see_tensor


def _on_input(see: See | Callable[[torch.Tensor], None]) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]:
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
