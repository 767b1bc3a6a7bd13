"""Reads and writes SAELens' folder (`cfg.json`, `sae_weights.safetensors`), in which a run keeps its own SAE.

A transcoder's folder is SAELens' too, but TopK and gated ones, of which SAELens has no class.

The SAE maps raw activations to raw activations. The layout is that of SAELens 6.54.12; `SAE.load_from_disk` reads it.
Folders from before version 6, whose cfg.json is one flat mapping, are read as SAELens 6 itself reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders.artifact import write_file, write_json
from saepipe.train.formats import saelens_pursuit
from saepipe.train.formats.hook_names import in_our_words, in_their_words, reshaping
from saepipe.train.formats.rewrites import b_dec_subtracted, decoder_norms
from saepipe.train.formats.source import Source, read_json
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.transcoder import center_folded, is_transcoder

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
VERSION = "6.54.12"

NAMES = {"relu": "standard"}
"""SAELens' names of architectures, where they differ from ours."""

CROSSCODER = "_crosscoder"
"""Ending of the architecture of a crosscoder, of which SAELens has no class."""

TRANSCODERS = {"relu": "", "jumprelu": "jumprelu_"}
"""What SAELens' names of transcoders begin with; it has none of other architectures, which we name alike."""

ARCHITECTURES = ("standard", "topk", "jumprelu", "gated", saelens_pursuit.NAME)
"""SAELens' architectures that we support; it saves batchtopk and matryoshka_batchtopk as jumprelu."""

CLASSES = (*ARCHITECTURES, *(f"{name}{skip}transcoder" for name in TRANSCODERS.values() for skip in ("", "skip_")))
"""Those of SAEs and of transcoders."""

FOLDED_BY = {
    "expected_average_only_in": "fold_activation_norm_scaling_factor",
    "covariance_whitening": "fold_activation_whitening",
}
"""SAELens' methods that put a normalisation into the weights, where it is the same for all tokens."""

EXTRA = {"jumprelu": ("threshold",), "gated": ("r_mag", "b_mag")}
"""Parameters of an architecture besides W_enc, b_enc, W_dec and b_dec; each (d_sae,), with the same name in SAELens."""


def write(folder: Path, sae: Architecture, params: Params, metadata: Mapping[str, Any]) -> list[str]:
    """Writes an SAE or a transcoder in raw units, in its form after training; returns the names of the files.

    Args:
        folder: created if necessary.
        sae: its settings become keys of cfg.json (`k` of a TopK; SAELens ignores unknown keys).
        params: under the names of `saepipe.train.sae.base.Params`, on any device.
        metadata: hook_name, model_name and other data to store with the weights.
    """
    sae, params = sae.inference(params)
    settings = sae.to_dict()
    name = settings.pop("name")
    transcoder, several = is_transcoder(params), "widths" in metadata
    config = {
        "architecture": f"{name}{CROSSCODER}" if several else architecture(name, params),
        "d_in": len(params["W_enc"]),
        **({"d_out": len(params["b_dec"])} if transcoder else {}),
        **(saelens_pursuit.their_settings(settings) if name == saelens_pursuit.NAME else settings),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": not transcoder,
        "normalize_activations": "none",
        "reshape_activations": reshaping(metadata),
        **({"rescale_acts_by_decoder_norm": False} if name == "topk" else {}),
        "metadata": {"sae_lens_version": VERSION, **in_their_words(metadata)},
    }
    if transcoder:
        params = center_folded(params)
        del params["b_in"]
    if "W_skip" in params:
        params = {**params, "W_skip": params["W_skip"].T}
    if name == saelens_pursuit.NAME:
        params = saelens_pursuit.without_encoder(params)
    tensors = {key: value.detach().to("cpu", torch.float32).contiguous() for key, value in params.items()}
    if name == "gated":
        tensors["b_gate"] = tensors.pop("b_enc")
    write_file(folder / WEIGHTS, save(tensors))
    write_json(folder / CONFIG, config)
    return [WEIGHTS, CONFIG]


def architecture(name: str, params: Params) -> str:
    """Returns SAELens' name for one of our architectures, or what its name would be if SAELens had it."""
    if not is_transcoder(params):
        return NAMES.get(name, name)
    return f"{TRANSCODERS.get(name, f'{name}_')}{'skip_' if 'W_skip' in params else ''}transcoder"


def _ours(architecture: str) -> str:
    """Returns our name of an architecture, of a transcoder that of its activation."""
    ours = {theirs: name for name, theirs in NAMES.items()}
    if architecture.endswith(CROSSCODER):
        return architecture.removesuffix(CROSSCODER)
    if match := re.fullmatch(r"(?:(.+)_)?(?:skip_)?transcoder", architecture.replace("skip_transcoder", "transcoder")):
        return match[1] or "relu"
    return ours.get(architecture, architecture)


def read(folder: Path) -> tuple[Architecture, Params, dict[str, Any]]:
    """Reads the SAE in a folder, ours or SAELens', as (settings, params in raw units, metadata).

    Raises:
        ConfigError: if it is not such a folder, or of an unsupported kind.
        CorruptDataError: if its files are inconsistent.
    """
    config, params = _read_files(folder)
    required = ("architecture", "d_in", "d_sae", *(("d_out",) if _is_transcoder(config) else ()))
    if missing := [key for key in required if key not in config]:
        raise ConfigError(f"{folder / CONFIG} does not say {', '.join(missing)}", hint="did SAELens write it?")
    name = _ours(config["architecture"])
    member = Architecture.member(name)
    if name == saelens_pursuit.NAME:
        settings = saelens_pursuit.our_settings(config, str(folder / CONFIG))
    else:
        settings = {key: config[key] for key in member.model_fields if key in config}
    sae = member.parse({**settings, "name": name}, source=str(folder / CONFIG))
    assert isinstance(sae, Architecture)
    _refuse_changed_input(folder, config)
    d_in, d_out = config["d_in"], config["d_out"] if _is_transcoder(config) else config["d_in"]
    expected = {
        "W_enc": (d_in, sae.d_sae),
        "b_enc": (sae.d_sae,),
        "W_dec": (sae.d_sae, d_out),
        "b_dec": (d_out,),
        **({"W_skip": (d_out, d_in)} if "skip_transcoder" in config["architecture"] else {}),
        **dict.fromkeys(EXTRA.get(name, ()), (sae.d_sae,)),
    }
    if unknown := params.keys() - expected.keys():
        raise ConfigError(f"{folder / WEIGHTS} holds tensors that a {name} does not have: {', '.join(sorted(unknown))}")
    for key, shape in expected.items():
        actual = tuple(params[key].shape) if key in params else None
        if actual != shape:
            raise CorruptDataError(f"{folder / WEIGHTS}: {key} has shape {actual}, not {shape} as {CONFIG} says")
    return sae, _to_our_convention(config, params), in_our_words(config.get("metadata") or {})


def _refuse_changed_input(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises ConfigError if the SAE does not read activations as they are; its hint depends on what it does to them."""
    normalize, reshape = (config.get(key) or "none" for key in ("normalize_activations", "reshape_activations"))
    whole = reshape in ("none", reshaping(config.get("metadata") or {}))
    if normalize == "none" and whole:
        return
    if not whole:
        problem = f"it reads several heads at once (reshape_activations {reshape})"
        hint = "saepipe reads one vector per token; import an SAE of a residual stream, or of hook_z"
    elif normalize in FOLDED_BY:
        problem = f"it normalises its input by what was measured in training (normalize_activations {normalize})"
        hint = f"in SAELens, `sae.{FOLDED_BY[normalize]}` puts that into the weights; save it again after that"
    else:
        problem = f"it normalises each token by itself (normalize_activations {normalize})"
        hint = "no weights on raw activations do that, so it cannot be a run; evaluate it in SAELens or SAEBench"
    raise ConfigError(f"{folder} cannot be imported: {problem}", hint=hint)


def source(folder: Path) -> Source:
    """Reads the SAE in a folder of SAELens for import; raises the same errors as `read`."""
    config = read_json(folder / CONFIG)
    if config.get("architecture", "standard") not in CLASSES:
        raise ConfigError(
            f"{folder / CONFIG}: architecture is {config['architecture']!r}",
            hint=f"supported: {', '.join(CLASSES)}; SAELens' save_inference_model turns a checkpoint into one",
        )
    sae, params, metadata = read(folder)
    return Source(
        sae=sae,
        params=params,
        files=(folder / WEIGHTS, folder / CONFIG),
        config=config,
        name=folder.absolute().name,
        model=metadata.get("model_name"),
        hook=metadata.get("hook_name"),
        target=metadata.get("hook_name_out"),
    )


def _read_files(folder: Path) -> tuple[dict[str, Any], Params]:
    try:
        config = json.loads((folder / CONFIG).read_text())
        params = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    except FileNotFoundError as error:
        hint = f"give a run, or a folder with {CONFIG} and {WEIGHTS}"
        raise ConfigError(f"{folder} holds no SAE: {error.filename or error} is missing", hint=hint) from None
    except (json.JSONDecodeError, SafetensorError) as error:
        raise CorruptDataError(f"{folder}: {error}") from None
    if "b_gate" in params:
        params["b_enc"] = params.pop("b_gate")
    if config.get("architecture") == saelens_pursuit.NAME and params.keys() == {"W_dec", "b_dec"}:
        params = saelens_pursuit.with_encoder(params)
    version = config.get("sae_lens_version") or (config.get("metadata") or {}).get("sae_lens_version") or "0"
    return (config if int(version.split(".")[0]) >= 6 else _to_version_6(folder, config, params)), params


def _to_version_6(folder: Path, config: Mapping[str, Any], params: Params) -> dict[str, Any]:
    """Returns an older cfg.json as SAELens 6 reads it (`handle_pre_6_0_config`); drops a scaling factor of 1.

    Raises:
        ConfigError: if the SAE uses what SAELens 6 would ignore: another activation function, a fitted scale.
    """
    new_names = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}
    config = {new_names.get(key, key): value for key, value in config.items()}
    function = config.get("activation_fn", "relu")
    if function not in ("relu", "topk"):
        raise ConfigError(f"{folder / CONFIG}: activation_fn is {function!r}", hint="supported: relu, topk")
    if not bool((params.pop("scaling_factor", torch.ones(())) == 1).all()):
        raise ConfigError(f"{folder / WEIGHTS} holds a scaling_factor other than 1", hint="fold it into the weights")
    normalize = config.get("normalize_activations") or "none"
    topk = {"architecture": "topk", "k": config.get("activation_fn_kwargs", {}).get("k")} if function == "topk" else {}
    return {
        "architecture": "standard",
        "reshape_activations": "hook_z" if "hook_z" in config.get("hook_name", "") else "none",
        "metadata": {key: config[key] for key in ("hook_name", "model_name", "dataset_path") if key in config},
        **config,
        **topk,
        "normalize_activations": "expected_average_only_in" if normalize is True else normalize,
    }


def _is_transcoder(config: Mapping[str, Any]) -> bool:
    return str(config.get("architecture")).endswith("transcoder")


def _to_our_convention(config: Mapping[str, Any], params: Params) -> Params:
    """Rewrites exactly what SAELens leaves optional: b_dec subtracted from x, no decoder norm in the activations."""
    if _is_transcoder(config):
        own = {"W_skip": params["W_skip"].T.contiguous()} if "W_skip" in params else {}
        params = {**params, **own, "b_in": torch.zeros(config["d_in"])}
    else:
        params = dict(params) if config.get("apply_b_dec_to_input", True) else b_dec_subtracted(params)
    if config.get("rescale_acts_by_decoder_norm", False):
        norms = decoder_norms(params)
        params["W_enc"] = params["W_enc"] * norms
        params["b_enc"] = params["b_enc"] * norms
        params["W_dec"] = params["W_dec"] / norms.unsqueeze(1)
    return params
