"""Reads the folders of OpenMOSS' llamascopium, formerly lm-saes (`config.json`, `sae_weights.safetensors`).

    hidden = (n x) W_E + b_E, gate = hidden |W_D_i| if `sparsity_include_decoder_norm` else hidden
    acts = hidden where gate > 0, or is among the k largest, or > exp(log_jumprelu_threshold)
    x_hat = (acts W_D + b_D) / n

n = sqrt(d_in) / the mean norm of the activations with `norm_activation: dataset-wise`, 1 with `inference` (2.0.0b34,
`models/sae.py`). Here b_E and b_D are divided by n, so that activations are in raw units, those of llamascopium's own
`fold_activation_scale`; and so is the threshold, which that leaves as it is. A transcoder, whose `hook_point_out` is
another hook, has an n of its own there: W_D is multiplied by n_in / n_out, and b_D divided by n_out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats.hook_names import in_our_words
from saepipe.train.formats.rewrites import b_dec_subtracted, decoder_norms, unit_rows
from saepipe.train.formats.source import Source, check_tensors, read_json, require_file
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.jumprelu import JumpReLU
from saepipe.train.sae.relu import ReLU
from saepipe.train.sae.topk import TopK

CONFIG = "config.json"

WEIGHTS = ("sae_weights.safetensors", "checkpoints/pruned.safetensors", "checkpoints/final.safetensors")
"""Files of weights, in the order in which llamascopium looks for them."""

KEYS = {"W_enc": "W_E", "b_enc": "b_E", "W_dec": "W_D", "b_dec": "b_D"}
"""Our name and theirs of each tensor, since 2025-06."""
LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "decoder.bias"}
"""The same before, in the layout of torch.nn.Linear."""

HOOKS = ("hook_point_in", "hook_point_out")
_NORM = "dataset_average_activation_norm."
_THRESHOLDS = ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold")
_SCALED = {"dataset-wise": True, "inference": False, "none": False}
"""Values of `norm_activation` that weights on raw activations can express, and whether they scale these."""


def source(folder: Path, activation_norm: float | None = None) -> Source:
    """Reads the SAE in a folder with `config.json`; arguments and errors are those of `llama_scope.source`."""
    path = folder / CONFIG
    config = read_json(path)
    hook, target = check_function(path, config)
    weights = weights_file(folder)
    params, others = load_tensors(weights, path, config)
    norms = {name.removeprefix(_NORM): float(value) for name, value in others.items() if name.startswith(_NORM)}
    norm_in, norm_out = (norms.get(str(config.get(key) or config["hook_point_in"])) for key in HOOKS)
    scales = scales_of(path, config, (norm_in, norm_out), activation_norm)
    sae, params = _activation(path, config, params, others, scales)
    return Source(
        sae=sae,
        params=in_our_convention(path, config, params, target),
        files=(weights, path),
        config=config,
        name=folder.absolute().name,
        hook=hook,
        target=target,
    )


def _activation(
    path: Path, config: Mapping[str, Any], params: Params, others: Mapping[str, Tensor], scales: Scales
) -> tuple[Architecture, Params]:
    """Returns the architecture, and its parameters on raw activations.

    Decoder norms leave the activations of a relu as they are, and move the thresholds of a jumprelu. In a topk they
    decide which latents are active, so its decoder rows become unit: activations are |W_D_i| times the library's.
    """
    d_sae, name = num_latents(path, config), config.get("act_fn")
    by_norm = config.get("sparsity_include_decoder_norm", True)
    raw = to_raw_units(params, scales)
    if name == "relu":
        return ReLU(d_sae=d_sae), raw
    if name == "topk":
        sae = TopK.parse({"d_sae": d_sae, "k": require_number(path, config, "top_k")}, source=str(path))
        return sae, unit_rows(raw) if by_norm else raw
    if name == "jumprelu":
        threshold = others[next(key for key in _THRESHOLDS if key in others)].exp().double() / scales.hook
        threshold = threshold / decoder_norms(params).double() if by_norm else threshold
        return JumpReLU(d_sae=d_sae), {**raw, "threshold": threshold.float()}
    reason = ": it keeps k per token on average over a batch, and stores no threshold" if name == "batchtopk" else ""
    raise ConfigError(f"{path}: act_fn is {name!r}{reason}", hint="supported: jumprelu, topk, relu")


def check_function(path: Path, config: Mapping[str, Any]) -> tuple[str, str | None]:
    """Returns the hook that an SAE reads, and a transcoder's target, by our names.

    Raises:
        ConfigError: if it is neither, or reads what no cache holds.
    """
    hook_in, hook_out = config.get("hook_point_in"), config.get("hook_point_out")
    if config.get("sae_type", "sae") != "sae":
        raise ConfigError(f"{path}: sae_type is {config['sae_type']!r}", hint="supported: sae")
    if not isinstance(hook_in, str):
        raise ConfigError(f"{path} does not say hook_point_in", hint="did OpenMOSS' library write it?")
    if hook_in.endswith("hook_normalized"):
        raise ConfigError(
            f"{path.parent} reads {hook_in}, before the norm's weight is multiplied in; no cache holds that",
            hint="hook_mlp_in is what the MLP's first matrix reads, after that weight; import Llama Scope's R, M or A",
        )
    if config.get("use_glu_encoder"):
        raise ConfigError(f"{path}: use_glu_encoder is true: no SAE here has a gate of that form")
    if str(config.get("norm_activation")) not in _SCALED:
        raise ConfigError(
            f"{path}: norm_activation is {config.get('norm_activation')!r}; no weights on raw activations do that, "
            "unless it is the same for all tokens",
            hint=f"supported: {', '.join(_SCALED)}",
        )
    ours, target = (str(in_our_words({"hook_name": name})["hook_name"]) for name in (hook_in, hook_out or hook_in))
    return ours, None if hook_out in (None, hook_in) else target


def weights_file(folder: Path) -> Path:
    """Returns the file of weights that the library would read; raises ConfigError if there is none."""
    present = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    return present[0] if present else require_file(folder / WEIGHTS[-1])


def load_tensors(weights: Path, path: Path, config: Mapping[str, Any]) -> tuple[Params, Mapping[str, Tensor]]:
    """Returns the checked parameters under our names, float32, W_enc (d_in, d_sae), and the other tensors as stored."""
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise CorruptDataError(f"{weights}: {error}") from None
    keys = LINEAR if LINEAR["W_enc"] in tensors else KEYS
    d_in, d_sae = int(require_number(path, config, "d_model")), num_latents(path, config)
    shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    order = -1 if keys is LINEAR else 1
    expected: dict[str, tuple[int, ...]] = {keys[name]: shape[::order] for name, shape in shapes.items()}
    if not config.get("use_decoder_bias", True):
        expected.pop(keys["b_dec"])
    if path.name == CONFIG and config.get("act_fn") == "jumprelu":
        expected[next((key for key in _THRESHOLDS if key in tensors), _THRESHOLDS[0])] = (d_sae,)
    check_tensors(weights, "llamascopium SAE", tensors, expected | {k: () for k in tensors if k.startswith(_NORM)})
    params = {name: tensors[key].float() for name, key in keys.items() if key in tensors}
    params |= {name: params[name].T.contiguous() for name in ("W_enc", "W_dec") if keys is LINEAR}
    params.setdefault("b_dec", torch.zeros(d_in))
    return params, {name: value.float() for name, value in tensors.items() if name not in keys.values()}


class Scales(NamedTuple):
    """What activations were multiplied by in training."""

    hook: float
    target: float


def scales_of(path: Path, config: Mapping[str, Any], stored: tuple[Any, Any], given: float | None) -> Scales:
    """Returns sqrt(d_in) / the mean norm of the activations that are read and reconstructed, or 1 if not scaled.

    Args:
        path: of the config.
        config: it.
        stored: mean norms at both hooks that the folder stores; None: it does not.
        given: mean norm that the user gave.

    Raises:
        ConfigError: if the norms contradict each other, or one is missing.
    """
    transcoder = config.get("hook_point_out") not in (None, config["hook_point_in"])
    if given is not None and (transcoder or not _SCALED[config["norm_activation"]]):
        reason = "a transcoder has two norms" if transcoder else f"norm_activation is {config['norm_activation']!r}"
        raise ConfigError(f"{path}: {reason}, so a given one is not used", hint="leave out --activation-norm")
    if not _SCALED[config["norm_activation"]]:
        return Scales(1.0, 1.0)
    ends = [(norm,) for norm in stored] if transcoder else [(*stored, given)] * 2
    return Scales(*(math.sqrt(config["d_model"]) / _one_norm(path, config, norms) for norms in ends))


def _one_norm(path: Path, config: Mapping[str, Any], norms: Sequence[Any]) -> float:
    """Returns the norm on which all agree that say one."""
    known = {norm for norm in norms if norm is not None}
    if not known:
        raise ConfigError(
            f"{path} does not say the mean norm of the activations that it was trained on",
            hint="add --activation-norm NORM (not for a transcoder, which has two)",
        )
    if len(known) > 1 or not all(isinstance(norm, int | float) and 0 < norm < math.inf for norm in known):
        values = ", ".join(sorted(map(str, known)))
        raise ConfigError(
            f"{path}: the mean norm of the activations at {config['hook_point_in']} is given as {values}",
            hint="one positive number; an SAE reads and predicts the same activations",
        )
    return float(known.pop())


def to_raw_units(params: Params, scales: Scales) -> Params:
    """Returns parameters for raw activations, given those for scaled ones; latents are divided by the hook's scale."""
    ratio = scales.hook / scales.target
    raw = {"b_enc": params["b_enc"].double() / scales.hook, "b_dec": params["b_dec"].double() / scales.target}
    W_dec = params["W_dec"] if ratio == 1 else params["W_dec"] * ratio
    return {**params, **{name: value.float() for name, value in raw.items()}, "W_dec": W_dec}


def in_our_convention(path: Path, config: Mapping[str, Any], params: Params, target: str | None) -> Params:
    """Returns parameters whose encoder subtracts b_dec from x; a transcoder's subtracts b_in, which is 0."""
    subtracts = bool(config.get("apply_decoder_bias_to_pre_encoder"))
    if target is None:
        return params if subtracts else b_dec_subtracted(params)
    if subtracts:
        raise ConfigError(f"{path}: apply_decoder_bias_to_pre_encoder is true, but {target} is not what it reads")
    return {**params, "b_in": torch.zeros(len(params["W_enc"]))}


def num_latents(path: Path, config: Mapping[str, Any]) -> int:
    """Returns d_sae, or d_model times the expansion factor, which may be a fraction, as the library rounds it."""
    if config.get("d_sae") is not None:
        return int(require_number(path, config, "d_sae"))
    return int(require_number(path, config, "d_model") * require_number(path, config, "expansion_factor"))


def require_number(path: Path, config: Mapping[str, Any], key: str) -> Any:
    """Returns a positive number of the config; raises ConfigError if it is missing."""
    value = config.get(key)
    if not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{path}: {key} is {value!r}, not a positive number", hint="did OpenMOSS' library write it?")
    return value
