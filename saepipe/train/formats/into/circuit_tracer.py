"""Writes one layer of a circuit-tracer transcoder set: `layer_19.safetensors` and a `config.yaml` that names the hooks.

`load_transcoder_set` of circuit-tracer 0.5.0 reads the files of all layers, from 0 to the last, at one pair of sites.
Its JumpReLU has no ReLU, so a negative threshold would let negative pre-activations through. Thresholds are raised to
0, where ours is the same function. It knows no top-k: what has no threshold it takes for a ReLU.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from safetensors.torch import save
from torch import Tensor

from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import write_file
from saepipe.train.formats.hook_names import in_their_words
from saepipe.train.formats.into.base import Outgoing
from saepipe.train.sae.transcoder import center_folded

LIBRARY = "circuit-tracer"
CONFIG = "config.yaml"

_SITE = re.compile(r"blocks\.(\d+)\.(.+)")


def write(folder: Path, sae: Outgoing) -> None:
    """Writes both files.

    Raises:
        ConfigError: if it is not a transcoder within one layer, of one width, whose activation is relu or jumprelu.
    """
    layer, read, written = _sites(sae)
    if sae.sae.name not in ("relu", "jumprelu"):
        raise ConfigError(
            f"{LIBRARY} supports relu and jumprelu, but this transcoder is a {sae.sae.name}",
            hint="train a batch_topk, which is saved as a jumprelu",
        )
    if sae.d_in != sae.d_out:
        raise ConfigError(f"{LIBRARY} has one width for both sites, but here d_in is {sae.d_in} and d_out {sae.d_out}")
    write_file(folder / f"layer_{layer}.safetensors", save(_tensors(sae)))
    config = {
        "model_kind": "transcoder_set",
        "model_name": sae.model,
        "feature_input_hook": read,
        "feature_output_hook": written,
        "scan": None,
    }
    write_file(folder / CONFIG, yaml.safe_dump(config, sort_keys=False).encode())


def _sites(sae: Outgoing) -> tuple[int, str, str]:
    """Returns the layer, and the sites by TransformerLens' names within it."""
    if sae.target is None:
        raise ConfigError(f"{LIBRARY} reads transcoders, and this is an SAE", hint="use --to saelens")
    names = in_their_words({"hook_name": sae.hook, "hook_name_out": sae.target})
    read, written = (_SITE.fullmatch(str(names[key])) for key in ("hook_name", "hook_name_out"))
    if not (read and written and read[1] == written[1]):
        raise ConfigError(
            f"{LIBRARY} replaces the MLP of one layer; this transcoder leads from {sae.hook} to {sae.target}",
            hint="use --to saelens, which names both hooks",
        )
    return int(read[1]), read[2], written[2]


def _tensors(sae: Outgoing) -> dict[str, Tensor]:
    """Returns the tensors by its names; the encoder and the skip are (out, in) there."""
    params = center_folded(sae.params)
    tensors = {name: params[name] for name in ("b_enc", "W_dec", "b_dec")}
    tensors |= {name: params[name].T for name in ("W_enc", "W_skip") if name in params}
    if "threshold" in params:
        tensors["activation_function.threshold"] = params["threshold"].clamp(min=0)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
