"""Reads Gemma Scope's `params.npz`: jumprelu SAEs whose config is their path (Lieberum et al. 2024, arXiv 2408.05147).

gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/params.npz

p = x W_enc + b_enc (without subtracting b_dec), acts = p where p > threshold and p > 0, x_hat = acts W_dec + b_dec
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats import gemma_scope_2
from saepipe.train.formats.npz_members import check_members
from saepipe.train.formats.rewrites import b_dec_subtracted
from saepipe.train.formats.source import Source, check_tensors, require_file
from saepipe.train.sae.base import Params
from saepipe.train.sae.jumprelu import JumpReLU

WEIGHTS = "params.npz"

SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
"""Hooks of the repositories' SAEs."""


def source(path: Path) -> Source:
    """Reads the SAE in a folder with `params.npz`, or in that file; also reads the files of Gemma Scope 2.

    Raises:
        ConfigError: if the file is missing, holds other arrays, or has another width than its path says.
        CorruptDataError: if the file cannot be read.
    """
    if path.name == gemma_scope_2.WEIGHTS or (path / gemma_scope_2.WEIGHTS).is_file():
        return gemma_scope_2.source(path)
    file = path / WEIGHTS if path.is_dir() else path
    params = _params(file)
    d_sae = len(params["W_dec"])
    folder = file.absolute().parent
    config = {key: match[1] for key in ("layer", "width", "average_l0") if (match := _last(rf"/{key}_(\w+)", folder))}
    if "width" in config and (width := _num_latents(config["width"])) not in (None, d_sae):
        raise ConfigError(f"{file} has {d_sae:,} latents, but its path says width_{config['width']} ({width:,})")
    repository = _last(r"gemma-scope-(2b|9b|27b)-(pt|it)-([a-z]+)", folder)
    layer = int(config["layer"]) if config.get("layer", "").isdecimal() else None
    if repository and repository[3] == "transcoders":
        raise ConfigError(
            f"{file} is a transcoder of Gemma Scope 1, which reads the normalised residual stream without the norm's "
            "gain: no hook of a cache is that",
            hint="Gemma Scope 2's transcoders read hook_mlp_in, and can be imported",
        )
    site = SITES.get(repository[3], repository[3]) if repository else None
    return Source(
        sae=JumpReLU(d_sae=d_sae),
        params=b_dec_subtracted(params),
        files=(file,),
        config=config,
        name="-".join(f"{key}_{value}" for key, value in config.items()) or folder.name,
        model=f"google/gemma-2-{repository[1]}{'-it' if repository[2] == 'it' else ''}" if repository else None,
        hook=_hook(folder, layer, site),
        layer=layer,
    )


def _hook(folder: Path, layer: int | None, site: str | None) -> str | None:
    if _last(r"/embedding(?=/|$)", folder):
        return "hook_embed"
    return f"blocks.{layer}.{site}" if site and layer is not None else None


def _params(file: Path) -> Params:
    require_file(file)
    try:
        check_members(file)
        with np.load(file, allow_pickle=False) as arrays:
            params = {re.sub("^w_", "W_", name): torch.from_numpy(arrays[name]).float() for name in arrays.files}
    except (ValueError, OSError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise CorruptDataError(f"{file} does not load as an archive of arrays: {error}") from None
    W_enc = params.get("W_enc")
    if W_enc is None or W_enc.ndim != 2:
        raise ConfigError(f"{file} is not a Gemma Scope SAE: no matrix W_enc among its arrays {', '.join(params)}")
    d_in, d_sae = W_enc.shape
    shapes = {
        "W_enc": (d_in, d_sae),
        "b_enc": (d_sae,),
        "W_dec": (d_sae, d_in),
        "b_dec": (d_in,),
        "threshold": (d_sae,),
    }
    check_tensors(file, "Gemma Scope SAE", params, shapes)
    return params


def _last(pattern: str, folder: Path) -> re.Match[str] | None:
    """Returns the match nearest to the file."""
    return max(re.finditer(pattern, str(folder)), key=lambda match: match.start(), default=None)


def _num_latents(width: str) -> int | None:
    """Returns the power of two nearest to a width: `16k` is 2^14, `131k` 2^17, `1m` 2^20; None for other strings."""
    match = re.fullmatch(r"(\d+)([km])", width)
    if match is None:
        return None
    return int(2 ** round(math.log2(int(match[1]) * {"k": 10**3, "m": 10**6}[match[2]])))
