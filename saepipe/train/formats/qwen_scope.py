"""Reads Qwen-Scope's `layer<n>.sae.pt`, whose config is the repository's name (Qwen team 2026, arXiv 2605.11887).

SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer7.sae.pt

    W_enc (d_sae, d_in), W_dec (d_in, d_sae), b_enc, b_dec; d_sae = 32 x 1,024, k = 50
    acts = the k largest of x W_enc^T + b_enc (without subtracting b_dec), token by token; x_hat = acts W_dec^T + b_dec

The SAE reads the output of decoder layer n. The model cards' own code keeps the k largest even if they are negative;
here, as in SAELens, they are zero.
"""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats.rewrites import b_dec_subtracted
from saepipe.train.formats.source import Source, check_tensors, require_file
from saepipe.train.sae.base import Params
from saepipe.train.sae.topk import TopK

_FILE = r"layer(\d+)\.sae\.pt"
_REPOSITORY = r"SAE-Res-([\w.-]+?)-W(\d+)K-L0_(\d+)"


def weights_file(path: Path) -> Path:
    """Returns the file of an SAE: `path` itself, or the only one in that folder.

    Raises:
        ConfigError: if it is missing, has another name, or the folder holds several.
    """
    files = sorted(path.glob("layer*.sae.pt")) if path.is_dir() else [path]
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ConfigError(f"{path} holds {len(files)} SAEs: {names}", hint=f"give one of them: {files[0]}")
    file = require_file(files[0] if files else path / "layer0.sae.pt")
    if not re.fullmatch(_FILE, file.name):
        raise ConfigError(f"{file} is not named as Qwen-Scope's SAEs are", hint="layer<n>.sae.pt")
    return file


def source(path: Path, weights: Path | None = None, k: int | None = None) -> Source:
    """Reads one layer's SAE.

    Args:
        path: `layer<n>.sae.pt`, or a folder with one such file.
        weights: that file as safetensors, by `saepipe.train.formats.pickle_format`.
        k: active latents per token, if the path does not contain the repository's name.

    Raises:
        ConfigError: if there is no such file, or it does not fit its path; or without `weights`, or without k.
        CorruptDataError: if the file cannot be read.
    """
    file = weights_file(path)
    if weights is None:
        raise ConfigError(
            f"{file} is in torch's pickle format, which can hold code",
            hint="--allow-pickle-format reads it as plain tensors, in a process of its own",
        )
    params = _params(file, weights)
    d_sae, layer = len(params["b_enc"]), int(file.name.removeprefix("layer").partition(".")[0])
    repository = re.search(_REPOSITORY, str(file.absolute()))
    if repository and int(repository[2]) * 1024 != d_sae:
        width = int(repository[2]) * 1024
        raise ConfigError(f"{file} has {d_sae:,} latents, but its path says W{repository[2]}K ({width:,})")
    if repository and k not in (None, int(repository[3])):
        raise ConfigError(f"{file}: its path says L0_{repository[3]}, but k = {k} was given", hint="leave out --k")
    if not repository and k is None:
        raise ConfigError(
            f"{file} does not say k, because its path does not contain the repository's name",
            hint="add --k 50 if the repository's name ends in L0_50",
        )
    k = int(repository[3]) if repository else k
    return Source(
        sae=TopK.parse({"d_sae": d_sae, "k": k}, source=str(file)),
        params=b_dec_subtracted(params),
        files=(file,),
        config={"layer": layer, "k": k, **({"repository": repository[0]} if repository else {})},
        name=f"{repository[0]}-layer_{layer}" if repository else f"layer_{layer}",
        model=f"Qwen/{repository[1]}" if repository else None,
        hook=f"blocks.{layer}.hook_resid_post",
        layer=layer,
    )


def _params(file: Path, weights: Path) -> Params:
    """Returns the checked tensors, float32, W_enc (d_in, d_sae) and W_dec (d_sae, d_in)."""
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise CorruptDataError(f"{file}: {error}") from None
    W_enc = tensors.get("W_enc")
    if W_enc is None or W_enc.ndim != 2:
        raise ConfigError(f"{file} is not a Qwen-Scope SAE: no matrix W_enc among its tensors {', '.join(tensors)}")
    d_sae, d_in = W_enc.shape
    shapes = {"W_enc": (d_sae, d_in), "b_enc": (d_sae,), "W_dec": (d_in, d_sae), "b_dec": (d_in,)}
    check_tensors(file, "Qwen-Scope SAE", tensors, shapes)
    return {name: (value.T if value.ndim == 2 else value).float().contiguous() for name, value in tensors.items()}
