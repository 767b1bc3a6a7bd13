"""Reads dictionary_learning's folder (`ae.pt`, `config.json`), as written by versions 0.1.0 and later.

| dict_class                             | acts                                                  | becomes  |
|----------------------------------------|-------------------------------------------------------|----------|
| AutoEncoder                            | relu((x - bias) W_enc + b_enc)                        | relu     |
| AutoEncoderTopK                        | the k largest of these, token by token                | topk     |
| BatchTopKSAE, MatryoshkaBatchTopKSAE   | these where they exceed the one stored threshold      | jumprelu |
| JumpReluAutoEncoder                    | p = x W_enc + b_enc where p > threshold and p > 0     | jumprelu |
| GatedAutoEncoder                       | 1[gate > 0] relu(magnitude), both of x - decoder_bias | gated    |

Like `AutoEncoder.from_pretrained`, this reader scales decoder rows to unit norm, and the encoder with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats.rewrites import b_dec_subtracted, unit_rows
from saepipe.train.formats.source import Source, check_tensors, read_json, require_file
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.gated import Gated
from saepipe.train.sae.jumprelu import JumpReLU
from saepipe.train.sae.relu import ReLU
from saepipe.train.sae.topk import TopK

CONFIG, WEIGHTS = "config.json", "ae.pt"

LINEAR = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}
"""Weights of a torch.nn.Linear, which are stored transposed."""
_OWN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
_TOP_K = {**LINEAR, "b_enc": "encoder.bias", "b_dec": "b_dec", "k": "k", "threshold": "threshold"}

KEYS: dict[str, dict[str, str]] = {
    "AutoEncoder": {**LINEAR, "b_enc": "encoder.bias", "b_dec": "bias"},
    "AutoEncoderTopK": _TOP_K,
    "BatchTopKSAE": _TOP_K,
    "MatryoshkaBatchTopKSAE": {**_OWN, "k": "k", "group_sizes": "group_sizes"},
    "JumpReluAutoEncoder": _OWN,
    "GatedAutoEncoder": {
        **LINEAR,
        "b_enc": "gate_bias",
        "b_dec": "decoder_bias",
        "r_mag": "r_mag",
        "b_mag": "mag_bias",
    },
}
"""Our name and theirs of each tensor, by dict_class."""


def source(folder: Path, weights: Path | None = None) -> Source:
    """Reads the SAE in a folder `trainer_<i>`.

    Args:
        folder: what the library wrote.
        weights: its `ae.pt` as safetensors, by `saepipe.train.formats.pickle_format`.

    Raises:
        ConfigError: if it is not such a folder, of an unsupported class, or inconsistent; or without `weights`.
        CorruptDataError: if a file cannot be read.
    """
    config = read_json(folder / CONFIG)
    trainer = config.get("trainer")
    kind = trainer.get("dict_class") if isinstance(trainer, dict) else None
    if not isinstance(trainer, dict) or kind not in KEYS:
        raise ConfigError(f"{folder / CONFIG}: trainer.dict_class is {kind!r}", hint=f"supported: {', '.join(KEYS)}")
    params = _params(folder, weights, kind, trainer)
    sae, params = _READERS[kind](folder, trainer, params)
    layer = trainer.get("layer")
    return Source(
        sae=sae,
        params=params,
        files=(folder / WEIGHTS, folder / CONFIG),
        config=config,
        name=folder.absolute().name,
        model=trainer.get("lm_name"),
        hook=None if layer is None else _hook(layer, trainer.get("submodule_name"), config.get("buffer") or {}),
        layer=layer,
        seed=trainer.get("seed"),
    )


def _params(folder: Path, weights: Path | None, kind: str, trainer: Mapping[str, Any]) -> Params:
    """Returns the checked tensors under our names, float32, W_enc (d_in, d_sae) and W_dec (d_sae, d_in)."""
    path, tensors = folder / WEIGHTS, _tensors(folder, weights)
    keys = KEYS[kind]
    W_enc = tensors.get(keys["W_enc"])
    if W_enc is None or W_enc.ndim != 2:
        raise ConfigError(f"{path}: no matrix {keys['W_enc']}, as {kind} needs, among the tensors {', '.join(tensors)}")
    d_in, d_sae = W_enc.T.shape if keys["W_enc"] in LINEAR.values() else W_enc.shape
    sizes = trainer.get("activation_dim", d_in), trainer.get("dict_size", d_sae)
    if sizes != (d_in, d_sae):
        raise ConfigError(f"{path} has (activation_dim, dict_size) = {(d_in, d_sae)}, but {CONFIG} says {sizes}")
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    shapes |= {"k": (), "threshold": (d_sae,) if kind == "JumpReluAutoEncoder" else ()}
    if "group_sizes" in tensors:
        shapes["group_sizes"] = (tensors["group_sizes"].numel(),)
    expected = {
        theirs: shapes.get(ours, (d_sae,))[:: -1 if theirs in LINEAR.values() else 1] for ours, theirs in keys.items()
    }
    optional = "threshold" if kind == "AutoEncoderTopK" else ""
    check_tensors(path, f"dictionary of class {kind}", tensors, expected, optional)
    params = {ours: tensors[theirs].float() for ours, theirs in keys.items() if theirs in tensors}
    return {name: value.T.contiguous() if keys[name] in LINEAR.values() else value for name, value in params.items()}


def _tensors(folder: Path, weights: Path | None) -> dict[str, Tensor]:
    require_file(folder / WEIGHTS)
    if weights is None:
        raise ConfigError(
            f"{folder / WEIGHTS} is in torch's pickle format, which can hold code",
            hint="--allow-pickle-format reads it as plain tensors, in a process of its own",
        )
    try:
        return load_file(weights)
    except SafetensorError as error:
        raise CorruptDataError(f"{folder / WEIGHTS}: {error}") from None


def _hook(layer: int, submodule: str | None, buffer: Mapping[str, Any]) -> str | None:
    """Returns the hook if the config says more than the layer; outside the residual stream it keeps their name."""
    if submodule and "resid" not in submodule:
        return f"blocks.{layer}.{submodule}"
    if submodule and (match := re.search("resid_(pre|mid|post)", submodule)):
        return f"blocks.{layer}.hook_{match[0]}"
    return f"blocks.{layer}.hook_resid_pre" if buffer.get("io") == "in" else None


def _relu(folder: Path, trainer: Mapping[str, Any], params: Params) -> tuple[Architecture, Params]:
    return ReLU(d_sae=len(params["b_enc"])), unit_rows(params)


def _topk(folder: Path, trainer: Mapping[str, Any], params: Params) -> tuple[Architecture, Params]:
    params = {**params}
    k = int(params.pop("k"))
    params.pop("threshold", None)  # for an alternative encoding that is not the default
    if trainer.get("k", k) != k:
        raise ConfigError(f"{folder}: {WEIGHTS} says k = {k}, but {CONFIG} says k = {trainer['k']}")
    sae = TopK.parse({"d_sae": len(params["b_enc"]), "k": k}, source=str(folder))
    return sae, params


def _batch_topk(folder: Path, trainer: Mapping[str, Any], params: Params) -> tuple[Architecture, Params]:
    threshold = params["threshold"]
    if not threshold >= 0:
        raise ConfigError(
            f"{folder}: the threshold is {threshold:g}, so none was set; a single token cannot be encoded without one",
            hint="the SAE was saved before threshold_start_step; train it for longer",
        )
    params = {name: value for name, value in params.items() if name not in ("k", "group_sizes")}
    d_sae = len(params["b_enc"])
    return JumpReLU(d_sae=d_sae), {**params, "threshold": threshold.expand(d_sae).contiguous()}


def _jumprelu(folder: Path, trainer: Mapping[str, Any], params: Params) -> tuple[Architecture, Params]:
    return JumpReLU(d_sae=len(params["b_enc"])), b_dec_subtracted(params)


def _gated(folder: Path, trainer: Mapping[str, Any], params: Params) -> tuple[Architecture, Params]:
    return Gated(d_sae=len(params["b_enc"])), params


_READERS: dict[str, Callable[[Path, Mapping[str, Any], Params], tuple[Architecture, Params]]] = {
    "AutoEncoder": _relu,
    "AutoEncoderTopK": _topk,
    "BatchTopKSAE": _batch_topk,
    "MatryoshkaBatchTopKSAE": _batch_topk,
    "JumpReluAutoEncoder": _jumprelu,
    "GatedAutoEncoder": _gated,
}
