"""The modules of a decoder layer at which each site is, by family of models; the only table of them.

Checked with random models of transformers 5.23 (tests/harvest/test_sites.py): what the sites hold adds up to the
layer's output, and doubling what attention or MLP gives moves the residual stream by exactly that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from torch import nn

from saepipe.data.errors import ConfigError
from saepipe.harvest.decoder_layers import decoder_layers
from saepipe.harvest.hook_point import HookPoint, Kind

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Site:
    """Input or output of a module within a decoder layer, times `factor`; of a tuple the first element."""

    module: str
    side: Literal["input", "output"]
    factor: float = 1.0


def _into(module: str) -> Site:
    return Site(module, "input")


def _out_of(module: str) -> Site:
    return Site(module, "output")


@dataclass(frozen=True)
class Sites:
    """The sites inside a decoder layer of one family; None where the family has none."""

    attn_out: Site | None
    z: Site | None
    mlp_in: Site | None
    mlp_out: Site | None
    resid_mid: Site | None
    """an input if the layer adds it to the MLP's output by another way, so that replacing it there is not enough"""

    def of(self, kind: Kind) -> Site | None:
        names = {"hook_attn_out": "attn_out", "attn.hook_z": "z"}
        site: Site | None = getattr(self, names.get(kind, kind.removeprefix("hook_")))
        return site


def _layer(attention: str, projection: str, norm: str | None, mlp: str = "mlp") -> Sites:
    """Sites of a layer in which attention and MLP, as they are, are added to the residual stream."""
    mid = None if norm is None else _into(norm)
    return Sites(_out_of(attention), _into(f"{attention}.{projection}"), _into(mlp), _out_of(mlp), mid)


_LLAMA = _layer("self_attn", "o_proj", "post_attention_layernorm")
# A norm follows attention and MLP; what the norms give is added.
_GEMMA_2 = replace(
    _LLAMA,
    attn_out=_out_of("post_attention_layernorm"),
    mlp_out=_out_of("post_feedforward_layernorm"),
    resid_mid=_into("pre_feedforward_layernorm"),
)
_NO_SITES = Sites(None, None, None, None, None)


def _scaled(site: Site | None, factor: float) -> Site | None:
    return None if site is None else replace(site, factor=factor)


def _gemma_4(config: Any, _: nn.Module) -> Sites:
    # Beside the MLP, experts read the residual stream through a norm of their own.
    return replace(_GEMMA_2, mlp_in=None) if config.enable_moe_block else _GEMMA_2


def _granite(config: Any, _: nn.Module) -> Sites:
    factor = float(config.residual_multiplier)
    return replace(_LLAMA, attn_out=_scaled(_LLAMA.attn_out, factor), mlp_out=_scaled(_LLAMA.mlp_out, factor))


def _qwen3_next(_: Any, layer: nn.Module) -> Sites:
    if hasattr(layer, "linear_attn"):
        return replace(_LLAMA, attn_out=_out_of("linear_attn"), z=_into("linear_attn.out_proj"))
    return _LLAMA


def _gpt_neox(config: Any, _: nn.Module) -> Sites:
    return _layer("attention", "dense", None if config.use_parallel_residual else "post_attention_layernorm")


def _falcon(config: Any, _: nn.Module) -> Sites:
    parallel = config.parallel_attn or config.new_decoder_architecture
    return _layer("self_attention", "dense", None if parallel else "post_attention_layernorm")


def _stablelm(config: Any, _: nn.Module) -> Sites:
    return replace(_LLAMA, resid_mid=None) if config.use_parallel_residual else _LLAMA


def _bloom(config: Any, _: nn.Module) -> Sites:
    # The modules of attention and MLP add the residual stream themselves.
    sites = _layer("self_attention", "dense", None)
    inner = replace(sites, attn_out=_out_of("self_attention.dense"), mlp_out=_out_of("mlp.dense_4h_to_h"))
    sliced = config.slow_but_exact and config.pretraining_tp > 1  # then the projections are not called
    return replace(_NO_SITES if sliced else inner, resid_mid=_out_of("self_attention"))


def _opt(config: Any, _: nn.Module) -> Sites:
    sites = replace(_layer("self_attn", "out_proj", "final_layer_norm"), mlp_in=_into("fc1"), mlp_out=_out_of("fc2"))
    return sites if config.do_layer_norm_before else replace(sites, resid_mid=_out_of("self_attn_layer_norm"))


_Family = Sites | Callable[[Any, nn.Module], Sites]

_FAMILIES: dict[str, _Family] = {
    **dict.fromkeys(("llama", "mistral", "gemma", "qwen2", "qwen3", "starcoder2", "phi3", "qwen3_moe"), _LLAMA),
    **dict.fromkeys(("mixtral", "smollm3", "gpt_oss"), _LLAMA),
    **dict.fromkeys(("gemma2", "gemma3_text"), _GEMMA_2),
    "gemma4_text": _gemma_4,
    **dict.fromkeys(("cohere", "cohere2"), replace(_LLAMA, resid_mid=None)),
    "olmo2": replace(_GEMMA_2, resid_mid=_into("mlp")),
    "granite": _granite,
    "qwen3_next": _qwen3_next,
    "gpt2": _layer("attn", "c_proj", "ln_2"),
    "gpt_neo": replace(_layer("attn", "c_proj", "ln_2"), z=_into("attn.attention.out_proj")),
    "gptj": _layer("attn", "out_proj", None),
    "gpt_neox": _gpt_neox,
    "falcon": _falcon,
    "stablelm": _stablelm,
    "bloom": _bloom,
    "mpt": replace(_layer("attn", "out_proj", "norm_2", "ffn"), mlp_out=_out_of("ffn.down_proj")),
    "opt": _opt,
    "mamba": _NO_SITES,
}
"""By `model_type` of the text model's config."""


def layer_of(model: PreTrainedModel, hook: HookPoint) -> nn.Module:
    """Returns the decoder layer of a hook; raises ConfigError if the model does not have so many."""
    layers = decoder_layers(model)
    hook.check_in(len(layers))
    return layers[hook.layer]


def site_of(model: PreTrainedModel, hook: HookPoint) -> Site:
    """Returns where a hook inside a decoder layer is.

    Raises:
        ConfigError: if the model has no such layer or no such site, or saepipe does not know the family's sites.
    """
    layer, config = layer_of(model, hook), model.config.get_text_config()
    family = _FAMILIES.get(config.model_type)
    between = f"blocks.{hook.layer}.hook_resid_pre and blocks.{hook.layer}.hook_resid_post are there in every model"
    if family is None:
        raise ConfigError(f"{hook}: the sites inside a layer of {config.model_type!r} are not known", hint=between)
    site = (family if isinstance(family, Sites) else family(config, layer)).of(hook.kind)
    if site is None:
        raise ConfigError(f"{hook}: a layer of {type(model).__name__} has no such site", hint=between)
    return site


def width_of(model: PreTrainedModel, hook: HookPoint) -> int:
    """Returns the width d_in of the activations at a hook; raises ConfigError like `site_of`."""
    layer = layer_of(model, hook)
    site = None if hook.is_between_layers else site_of(model, hook)
    if site is None or hook.kind != "attn.hook_z":
        return int(cast(int, model.config.get_text_config().hidden_size))
    projection: Any = layer.get_submodule(site.module)
    # transformers' Conv1D, of GPT-2, holds its weight as (in, out).
    return int(projection.in_features if hasattr(projection, "in_features") else len(projection.weight))
