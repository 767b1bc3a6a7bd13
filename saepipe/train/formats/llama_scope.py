"""Reads OpenMOSS' folders: Llama Scope's `hyperparams.json` (He et al. 2024, arXiv 2410.20526), and llamascopium's.

    Llama3_1-8B-Base-L15R-8x/hyperparams.json, checkpoints/final.safetensors

As its authors load it (lm_saes of 2024-10, `SparseAutoEncoder.from_config`), the activations are in raw units, so that
W_enc stays, b_enc and b_dec are divided by n = sqrt(d_in) / the mean norm of the activations, and decoder rows become
unit, if `sparsity_include_decoder_norm`; with a transcoder's two norms as in `llamascopium`. p = x W_enc + b_enc,
acts = p where p > `jump_relu_threshold`, which was measured on the SAE in this form: it is in raw units, and is the
same for all latents. Llama Scope's own transcoders read ln2.hook_normalized, which no cache holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from saepipe.data.errors import ConfigError
from saepipe.train.formats import llamascopium
from saepipe.train.formats.llamascopium import (
    check_function,
    in_our_convention,
    load_tensors,
    num_latents,
    require_number,
    scales_of,
    to_raw_units,
    weights_file,
)
from saepipe.train.formats.rewrites import unit_rows
from saepipe.train.formats.source import Source, read_json
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.jumprelu import JumpReLU
from saepipe.train.sae.relu import ReLU
from saepipe.train.sae.topk import TopK

CONFIG = "hyperparams.json"


def source(folder: Path, activation_norm: float | None = None) -> Source:
    """Reads the SAE in a folder with `hyperparams.json`, or with the `config.json` of later versions.

    Args:
        folder: what the library wrote, or a download of it.
        activation_norm: mean norm of the activations that the SAE was trained on, if the folder does not say it.

    Raises:
        ConfigError: if a file is missing, or holds something other than an SAE whose function raw weights can express.
        CorruptDataError: if a file cannot be read.
    """
    if not (folder / CONFIG).is_file() and (folder / llamascopium.CONFIG).is_file():
        return llamascopium.source(folder, activation_norm)
    config = read_json(folder / CONFIG)
    hook, target = check_function(folder / CONFIG, config)
    weights = weights_file(folder)
    params = load_tensors(weights, folder / CONFIG, config)[0]
    norms = config.get("dataset_average_activation_norm")
    stored = (norms.get("in"), norms.get("out")) if isinstance(norms, dict) else (norms, norms)
    params = to_raw_units(params, scales_of(folder / CONFIG, config, stored, activation_norm))
    if config.get("sparsity_include_decoder_norm", True):
        params = unit_rows(params)
    sae, params = _activation(folder / CONFIG, config, params)
    return Source(
        sae=sae,
        params=in_our_convention(folder / CONFIG, config, params, target),
        files=(weights, folder / CONFIG),
        config=config,
        name=folder.absolute().name,
        model="meta-llama/Llama-3.1-8B" if re.search("Llama3_1-8B-Base", str(folder.absolute())) else None,
        hook=hook,
        target=target,
    )


def _activation(path: Path, config: Mapping[str, Any], params: Params) -> tuple[Architecture, Params]:
    """Returns the architecture, and its parameters.

    A topk with a threshold is refused: lm-saes says that it converts it to a jumprelu, but goes on with the topk.
    """
    d_sae = num_latents(path, config)
    name, threshold = config.get("act_fn"), config.get("jump_relu_threshold") or 0.0
    if not isinstance(threshold, int | float) or not 0 <= threshold < math.inf:
        raise ConfigError(f"{path}: jump_relu_threshold is {threshold!r}", hint="a number of at least 0")
    if name == "topk" and threshold > 0:
        raise ConfigError(
            f"{path}: act_fn is 'topk', but jump_relu_threshold is {threshold:g}",
            hint="set act_fn to 'jumprelu' (as in all of Llama Scope), or jump_relu_threshold to 0",
        )
    if name == "jumprelu":
        return JumpReLU(d_sae=d_sae), {**params, "threshold": torch.full((d_sae,), float(threshold))}
    if name == "topk":
        return TopK.parse({"d_sae": d_sae, "k": require_number(path, config, "top_k")}, source=str(path)), params
    if name == "relu":
        return ReLU(d_sae=d_sae), params
    raise ConfigError(f"{path}: act_fn is {name!r}", hint="supported: jumprelu, topk, relu")
