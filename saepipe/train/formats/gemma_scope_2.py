"""Reads Gemma Scope 2's `params.safetensors` and `config.json`: jumprelu SAEs and transcoders of the Gemma 3 models.

gemma-scope-2-1b-pt/resid_post/layer_13_width_65k_l0_medium/

The function is that of Gemma Scope: p = x W_enc + b_enc (without subtracting b_dec), acts = p where p > threshold and
p > 0. A transcoder's decoder gives y, to which x `affine_skip_connection`, (d_in, d_out), is added if it is there.
`hf_hook_point_in` says where it reads. Crosscoders, under the same file names, are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats.rewrites import b_dec_subtracted
from saepipe.train.formats.source import Source, check_tensors, read_json, require_file
from saepipe.train.sae.base import Params
from saepipe.train.sae.jumprelu import JumpReLU

WEIGHTS, CONFIG = "params.safetensors", "config.json"
NAMES = {"w_enc": "W_enc", "w_dec": "W_dec", "affine_skip_connection": "W_skip"}
"""Our names of tensors, where they differ from theirs."""

SITES = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_attention_layernorm.output": "hook_attn_out",
    "pre_feedforward_layernorm.output": "hook_mlp_in",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}
"""Hook in a layer, by the module that config.json names."""


def source(path: Path) -> Source:
    """Reads the SAE in a folder with `params.safetensors`, or in that file.

    Raises:
        ConfigError: if a file is missing, or does not hold an SAE of the architecture and width in config.json.
        CorruptDataError: if a file cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / CONFIG)
    if config.get("architecture") != "jump_relu":
        raise ConfigError(
            f"{folder / CONFIG}: architecture is {config.get('architecture')!r}", hint="supported: jump_relu"
        )
    params = _params(folder / WEIGHTS, config)
    hook, target = (_hook(config.get(f"hf_hook_point_{end}")) for end in ("in", "out"))
    transcoder = _is_transcoder(config, params)
    return Source(
        sae=JumpReLU(d_sae=len(params["b_enc"])),
        params=params | {"b_in": torch.zeros(len(params["W_enc"]))} if transcoder else b_dec_subtracted(params),
        files=(folder / WEIGHTS, folder / CONFIG),
        config=config,
        name=folder.absolute().name,
        model=_model(config.get("model_name")),
        hook=hook,
        target=target if transcoder else None,
        layer=int(hook.split(".")[1]) if hook else None,
    )


def _hook(module: str | None) -> str | None:
    """Returns our name of the hook at a module's output or input, as `layers.13.post_feedforward_layernorm.output`."""
    site = re.search(r"layers\.(\d+)\.(.+)", module or "")
    return f"blocks.{site[1]}.{SITES.get(site[2], site[2])}" if site else None


def _is_transcoder(config: Mapping[str, Any], params: Params) -> bool:
    hook_in = config.get("hf_hook_point_in")
    another = config.get("hf_hook_point_out") not in (None, hook_in)
    return another or "W_skip" in params or config.get("type") == "transcoder"


def _params(file: Path, config: Mapping[str, Any]) -> Params:
    try:
        tensors = load_file(require_file(file))
    except SafetensorError as error:
        raise CorruptDataError(f"{file}: {error}") from None
    _refuse_crosscoder(file, config)
    params = {NAMES.get(name, name): tensor.float() for name, tensor in tensors.items()}
    W_enc = params.get("W_enc")
    if W_enc is None or W_enc.ndim != 2:
        raise ConfigError(f"{file} is not a Gemma Scope 2 SAE: no matrix w_enc among its tensors {', '.join(tensors)}")
    d_in, d_sae = W_enc.shape
    if config.get("width", d_sae) != d_sae:
        raise ConfigError(f"{file} has {d_sae:,} latents, but {CONFIG} says width {config['width']:,}")
    d_out = params["W_dec"].shape[-1] if "W_dec" in params and _is_transcoder(config, params) else d_in
    if config.get("affine_connection") and "W_skip" not in params:
        raise CorruptDataError(f"{CONFIG} of {file.parent} says affine_connection, but {file.name} has no skip")
    expected: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out)}
    expected |= {"b_enc": (d_sae,), "threshold": (d_sae,), "b_dec": (d_out,)}
    if "W_skip" in params:
        expected["W_skip"] = (d_in, d_out)
    check_tensors(file, "Gemma Scope 2 SAE", params, expected)
    return params


def _refuse_crosscoder(file: Path, config: Mapping[str, Any]) -> None:
    """Raises ConfigError for what spans several layers."""
    kind = config.get("type", "sae")
    if kind not in ("sae", "transcoder"):
        raise ConfigError(
            f"{file.parent} is of type {kind!r} in {CONFIG}",
            hint="SAEs are in the folders resid_post, attn_out and mlp_out, transcoders in transcoder",
        )


def _model(name: str | None) -> str | None:
    """Returns the hub's name of a model: some configs say gemma-v3-1b-pt; the hub's 270m has no suffix -pt."""
    if name is None:
        return None
    name = name.rpartition("/")[2].replace("-v3", "-3")
    return f"google/{name.removesuffix('-pt') if '270m' in name else name}"
