"""sparsify's folder (`cfg.json`, `sae.safetensors`), as its versions 1.0 and after write it: one a hookpoint.

    RUN/config.json                       model, hookpoints, init_seeds
    RUN/layers.19/cfg.json                or, with several seeds, RUN/layers.19/seed0/cfg.json

acts = the k largest of relu((x - b_dec) W_enc + b_enc), token by token. `W_dec` (d_sae, d_in) is stored as it is
multiplied, `encoder.weight` (d_sae, d_in) as torch.nn.Linear has it. A hookpoint is what Hugging Face calls a module,
and the module's output is meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats.source import Source, check_tensors, existing, read_json
from saepipe.train.sae.base import Params
from saepipe.train.sae.topk import TopK

CONFIG, WEIGHTS, RUN = "cfg.json", "sae.safetensors", "config.json"

KEYS = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
"""Our name of each tensor, and theirs."""

_HAVE_NOT = {
    "activation": ("topk", "the largest of each of k groups, and no top-k of all, is what it takes"),
    "transcode": (False, "it is a transcoder: what it makes is another module's output, not its input"),
    "skip_connection": (False, "it adds a linear map of its input, which no SAE here has"),
    "signed": (False, "it takes the largest by absolute value, and activations here are not negative"),
}
"""Settings that change what is computed: the one value that we have, and what another means."""


def source(folder: Path) -> Source:
    """The SAE of one hookpoint and seed.

    Raises:
        ConfigError: if there is none, there are several, or it is of a kind that we do not have.
        CorruptDataError: if a file cannot be read.
    """
    _refuse_several(folder)
    config = read_json(folder / CONFIG)
    for key, (known, words) in _HAVE_NOT.items():
        if config.get(key, known) != known:
            raise ConfigError(f"{folder / CONFIG}: {key} is {config[key]!r}: {words}", hint=f"known: {key} {known!r}")
    if missing := [key for key in ("d_in", "k") if not isinstance(config.get(key), int)]:
        raise ConfigError(f"{folder / CONFIG} does not say {', '.join(missing)}", hint="is it sparsify's own?")
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
        said={**config, "hookpoint": hookpoint.name},
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
            f"{folder} holds {len(inside)} SAEs: {', '.join(inside)}",
            hint=f"one at a time: {folder / inside[0]}",
        )


def _params(path: Path, config: Mapping[str, Any]) -> Params:
    """The tensors by our names, float32, W_enc (d_in, d_sae); checked."""
    try:
        tensors = load_file(existing(path))
    except SafetensorError as error:
        raise CorruptDataError(f"{path}: {error}") from None
    d_in = config["d_in"]
    d_sae = config.get("num_latents") or d_in * config.get("expansion_factor", 0)
    shapes = {"encoder.weight": (d_sae, d_in), "encoder.bias": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    check_tensors(path, "sparsify SAE", tensors, shapes)
    params = {ours: tensors[theirs].float() for ours, theirs in KEYS.items()}
    return {**params, "W_enc": params["W_enc"].T.contiguous()}


def _hook(hookpoint: str) -> str | None:
    """The output of a decoder layer is the residual stream after it; other modules keep their name."""
    match = re.fullmatch(r"(?:.*\.)?(?:layers|h)\.(\d+)(?:\.(.+))?", hookpoint)
    return f"blocks.{match[1]}.{match[2] or 'hook_resid_post'}" if match else None
