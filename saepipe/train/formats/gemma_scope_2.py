"""Gemma Scope 2's `params.safetensors` and `config.json`: jumprelu SAEs of the Gemma 3 models.

gemma-scope-2-1b-pt/resid_post/layer_13_width_65k_l0_medium/

The function is Gemma Scope's: p = x W_enc + b_enc (b_dec is not taken from x), acts = p where p > threshold and p > 0.
The repositories hold transcoders and crosscoders too, under the same file names; they are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats.rewrites import b_dec_subtracted
from saepipe.train.formats.source import Source, check_tensors, existing, read_json
from saepipe.train.sae.base import Params
from saepipe.train.sae.jumprelu import JumpReLU

WEIGHTS, CONFIG = "params.safetensors", "config.json"
SKIP = "affine_skip_connection"

SITES = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}
"""Where in a layer an SAE was trained, by the module that config.json names."""


def source(path: Path) -> Source:
    """The SAE in a folder with `params.safetensors`, or in that file.

    Raises:
        ConfigError: if it is not there, is no SAE, or is of another kind or width than config.json says.
        CorruptDataError: if a file cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    config = read_json(folder / CONFIG)
    if config.get("architecture") != "jump_relu":
        raise ConfigError(f"{folder / CONFIG}: architecture is {config.get('architecture')!r}", hint="known: jump_relu")
    params = _params(folder / WEIGHTS, config)
    site = re.search(r"layers\.(\d+)\.(.+)", config.get("hf_hook_point_in") or "")
    return Source(
        sae=JumpReLU(d_sae=len(params["b_enc"])),
        params=b_dec_subtracted(params),
        files=(folder / WEIGHTS, folder / CONFIG),
        said=config,
        name=folder.absolute().name,
        model=_model(config.get("model_name")),
        hook=f"blocks.{site[1]}.{SITES.get(site[2], site[2])}" if site else None,
        layer=int(site[1]) if site else None,
    )


def _params(file: Path, config: Mapping[str, Any]) -> Params:
    try:
        tensors = load_file(existing(file))
    except SafetensorError as error:
        raise CorruptDataError(f"{file}: {error}") from None
    _refuse_transcoder(file, config, tensors)
    found = {re.sub("^w_", "W_", name): tensor.float() for name, tensor in tensors.items()}
    W_enc = found.get("W_enc")
    if W_enc is None or W_enc.ndim != 2:
        raise ConfigError(f"{file} is no Gemma Scope 2 SAE: w_enc is not in it as a matrix, but {', '.join(tensors)}")
    d_in, d_sae = W_enc.shape
    if config.get("width", d_sae) != d_sae:
        raise ConfigError(f"{file} has {d_sae:,} latents; {CONFIG} says width {config['width']:,}")
    one_each = {"b_enc": (d_sae,), "threshold": (d_sae,), "b_dec": (d_in,)}
    check_tensors(file, "Gemma Scope 2 SAE", found, {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), **one_each})
    return found


def _refuse_transcoder(file: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """It makes one module's output of another's, and what is evaluated here is the reconstruction of the input."""
    there = config.get("hf_hook_point_in")
    signs = {
        f"{SKIP} in {file.name}": SKIP in tensors,
        f"affine_connection in {CONFIG}": bool(config.get("affine_connection")),
        f"type {config.get('type')!r} in {CONFIG}": config.get("type", "sae") != "sae",
        f"hf_hook_point_out {config.get('hf_hook_point_out')}": config.get("hf_hook_point_out") not in (None, there),
    }
    if found := [sign for sign, there_is in signs.items() if there_is]:
        raise ConfigError(
            f"{file.parent} holds a transcoder or crosscoder, and no SAE ({', '.join(found)})",
            hint="SAEs are in the folders resid_post, attn_out and mlp_out",
        )


def _model(said: str | None) -> str | None:
    """As the hub has it: google/gemma-3-1b-pt is gemma-v3-1b-pt to some; the 270m has no -pt there."""
    if said is None:
        return None
    name = said.rpartition("/")[2].replace("-v3", "-3")
    return f"google/{name.removesuffix('-pt') if '270m' in name else name}"
