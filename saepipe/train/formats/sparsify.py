"""Reads sparsify's folder (`cfg.json`, `sae.safetensors`), as written by versions 1.0 and later: one per hookpoint.

    RUN/config.json                       model, hookpoints, init_seeds
    RUN/layers.19/cfg.json                or, with several seeds, RUN/layers.19/seed0/cfg.json

acts = the k largest of relu((x - b_dec) W_enc + b_enc), token by token. `W_dec` (d_sae, d_in) is stored as multiplied,
`encoder.weight` (d_sae, d_in) in the layout of torch.nn.Linear. A hookpoint is Hugging Face's name of a module, and the
SAE reads the module's output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats.source import Source, check_tensors, read_json, require_file
from saepipe.train.sae.base import Params
from saepipe.train.sae.topk import TopK

CONFIG, WEIGHTS, RUN = "cfg.json", "sae.safetensors", "config.json"

KEYS = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
"""Our name and theirs of each tensor."""

_SUPPORTED = {
    "activation": ("topk", "it keeps the largest of each of k groups, not the top-k of all"),
    "transcode": (False, "it is a transcoder: it predicts another module's output, not its own input"),
    "skip_connection": (False, "it adds a linear map of its input, which no SAE here has"),
    "signed": (False, "it keeps the largest by absolute value, but activations here are never negative"),
}
"""Settings that change the function: the one supported value, and the meaning of any other."""


def source(folder: Path) -> Source:
    """Reads the SAE of one hookpoint and seed.

    Raises:
        ConfigError: if the folder holds no SAE, several, or one of an unsupported kind.
        CorruptDataError: if a file cannot be read.
    """
    _refuse_several(folder)
    config = read_json(folder / CONFIG)
    for key, (value, reason) in _SUPPORTED.items():
        if config.get(key, value) != value:
            raise ConfigError(f"{folder / CONFIG}: {key} is {config[key]!r}: {reason}", hint=f"set {key} to {value!r}")
    if missing := [key for key in ("d_in", "k") if not isinstance(config.get(key), int)]:
        raise ConfigError(f"{folder / CONFIG} does not say {', '.join(missing)}", hint="did sparsify write it?")
    params = _params(folder / WEIGHTS, config)
    sae = TopK.parse({"d_sae": len(params["b_enc"]), "k": config["k"]}, source=str(folder / CONFIG))
    seeded = re.fullmatch(r"seed(\d+)", folder.absolute().name)
    hookpoint = folder.absolute().parent if seeded else folder.absolute()
    run = read_json(hookpoint.parent / RUN) if (hookpoint.parent / RUN).is_file() else {}
    seeds = run.get("init_seeds") or []
    return Source(
        sae=sae,
        params=params,
        files=(folder / WEIGHTS, folder / CONFIG),
        config={**config, "hookpoint": hookpoint.name},
        name=hookpoint.parent.name,
        model=run.get("model"),
        hook=_hook(hookpoint.name),
        seed=int(seeded[1]) if seeded else seeds[0] if len(seeds) == 1 else None,
    )


def _refuse_several(folder: Path) -> None:
    if (folder / CONFIG).exists() or not folder.is_dir():
        return
    inside = sorted(str(path.parent.relative_to(folder)) for path in folder.rglob(CONFIG))
    if inside:
        raise ConfigError(
            f"{folder} holds {len(inside)} SAEs: {', '.join(inside)}", hint=f"give one of them: {folder / inside[0]}"
        )


def _params(path: Path, config: Mapping[str, Any]) -> Params:
    """Returns the checked tensors under our names, float32, W_enc (d_in, d_sae)."""
    try:
        tensors = load_file(require_file(path))
    except SafetensorError as error:
        raise CorruptDataError(f"{path}: {error}") from None
    d_in = config["d_in"]
    d_sae = config.get("num_latents") or d_in * config.get("expansion_factor", 0)
    shapes = {"encoder.weight": (d_sae, d_in), "encoder.bias": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    check_tensors(path, "sparsify SAE", tensors, shapes)
    params = {ours: tensors[theirs].float() for ours, theirs in KEYS.items()}
    return {**params, "W_enc": params["W_enc"].T.contiguous()}


def _hook(hookpoint: str) -> str | None:
    """Returns the hook: a decoder layer's output is the residual stream after it; other modules keep their name."""
    match = re.fullmatch(r"(?:.*\.)?(?:layers|h)\.(\d+)(?:\.(.+))?", hookpoint)
    return f"blocks.{match[1]}.{match[2] or 'hook_resid_post'}" if match else None
