"""Writes SAELens' folder, in which a run already keeps its SAE, with every key that SAELens 6.54.12 writes."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save

from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import write_file, write_json
from saepipe.train.formats import saelens
from saepipe.train.formats.into.base import Outgoing
from saepipe.train.formats.source import read_json

SPARSITY = "sparsity.safetensors"

_OUR_KEYS = ("bandwidth", "initial_threshold")
"""Training settings in a run's cfg.json that SAELens does not have."""


def write(folder: Path, sae: Outgoing) -> None:
    """Writes cfg.json, sae_weights.safetensors and, for an evaluated run, sparsity.safetensors.

    Raises:
        ConfigError: for a transcoder of which SAELens has no class.
    """
    if sae.target and sae.sae.name not in saelens.TRANSCODERS:
        raise ConfigError(
            f"SAELens has relu and jumprelu transcoders, but this one is a {sae.sae.name}",
            hint="train a batch_topk, which is saved as a jumprelu",
        )
    saelens.write(folder, sae.sae, sae.params, _metadata(sae))
    config = read_json(folder / saelens.CONFIG)
    write_json(folder / saelens.CONFIG, {key: config[key] for key in config if key not in _OUR_KEYS})
    if sae.density is not None:
        log_density = torch.log10(sae.density.float() + 1e-10)  # as SAELens' trainer writes it
        write_file(folder / SPARSITY, save({"sparsity": log_density}))


def _metadata(sae: Outgoing) -> dict[str, object]:
    """Returns all keys that SAELens uses, null if unknown: it replaces an absent training version by its own."""
    return {
        "sae_lens_training_version": None,
        "model_class_name": "HookedTransformer",
        "model_from_pretrained_kwargs": {},
        "hook_head_index": None,
        "seqpos_slice": [None],
        "dataset_path": sae.dataset,
        "neuronpedia_id": None,
        "l0": sae.l0,
        **sae.metadata,
        "sae_lens_version": saelens.VERSION,
        "saepipe": sae.origin,
    }
