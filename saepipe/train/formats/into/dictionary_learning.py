"""Writes dictionary_learning's folder (`ae.pt`, `config.json`), which its 0.1.0, SAELens and SAEBench read.

| our SAE                                      | dict_class             | rewrite                                    |
|----------------------------------------------|------------------------|--------------------------------------------|
| relu                                         | AutoEncoder            | rows of unit norm, as its loader does      |
| topk                                         | AutoEncoderTopK        |                                            |
| jumprelu of a batch_topk, k an integer       | BatchTopKSAE           | one threshold                              |
| the same of a matryoshka_batch_topk          | MatryoshkaBatchTopKSAE | one threshold; sizes of the groups         |
| any other jumprelu                           | JumpReluAutoEncoder    | b_dec is not subtracted: moved to b_enc    |
| gated                                        | GatedAutoEncoder       |                                            |
"""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import write_file, write_json
from saepipe.train.formats.dictionary_learning import CONFIG, KEYS, LINEAR, WEIGHTS
from saepipe.train.formats.into.base import Outgoing
from saepipe.train.formats.rewrites import b_dec_left_in, decoder_norms, unit_rows
from saepipe.train.sae.base import Params
from saepipe.train.sae.batch_topk import BatchTopK
from saepipe.train.sae.matryoshka_batch_topk import MatryoshkaBatchTopK
from saepipe.train.sae.topk import TopK

LIBRARY = "dictionary_learning"

TRAINERS = {
    "AutoEncoder": "StandardTrainer",
    "AutoEncoderTopK": "TopKTrainer",
    "BatchTopKSAE": "BatchTopKTrainer",
    "MatryoshkaBatchTopKSAE": "MatryoshkaBatchTopKTrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
    "GatedAutoEncoder": "GatedSAETrainer",
}
"""Trainer of each class, by which SAEBench's loaders distinguish the classes."""


def write(folder: Path, sae: Outgoing) -> None:
    """Writes the folder.

    Raises:
        ConfigError: for a transcoder or an architecture without a class there, a hook without a name there, or a zero
            decoder row.
    """
    sae.refuse_transcoder(LIBRARY)
    layer = sae.layer_before(LIBRARY)
    kind, params = _to_their_class(sae)
    tensors = {KEYS[kind][name]: _to_their_layout(KEYS[kind][name], value) for name, value in params.items()}
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    write_file(folder / WEIGHTS, buffer.getbuffer())
    counts: dict[str, Any] = {name: params[name].tolist() for name in ("k", "group_sizes") if name in params}
    trainer: dict[str, Any] = {
        "trainer_class": TRAINERS[kind],
        "dict_class": kind,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        **counts,
        "lr": sae.lr,
        "steps": sae.steps,
        "seed": sae.seed,
        "device": "cpu",
        "layer": layer,
        "lm_name": sae.model,
        "wandb_name": sae.origin["variant"],
        "submodule_name": f"resid_post_layer_{layer}",
    }
    buffer_config = {"ctx_len": sae.context_size, "d_submodule": sae.d_in, "io": "out"}
    write_json(folder / CONFIG, {"trainer": trainer, "buffer": buffer_config, "saepipe": sae.origin})


def _to_their_class(sae: Outgoing) -> tuple[str, Params]:
    """Returns the dict_class with the same function, and its tensors under our names."""
    params, trained = sae.params, sae.trained
    if isinstance(sae.sae, TopK):
        return "AutoEncoderTopK", {**params, "k": _int32(sae.sae.kept), "threshold": torch.tensor(-1.0)}
    if sae.sae.name == "relu":
        return "AutoEncoder", _unit_rows(params)
    if sae.sae.name == "gated":
        return "GatedAutoEncoder", params
    if sae.sae.name != "jumprelu":
        raise ConfigError(f"no class of {LIBRARY} is equivalent to a {sae.sae.name}", hint="use --to saelens")
    if not isinstance(trained, BatchTopK) or trained.num_active != int(trained.num_active):
        return "JumpReluAutoEncoder", b_dec_left_in(params)
    params = {**params, "k": _int32(int(trained.num_active)), "threshold": params["threshold"][0]}
    if isinstance(trained, MatryoshkaBatchTopK):
        sizes = [stop - start for start, stop in pairwise((0, *trained.sizes))]
        return "MatryoshkaBatchTopKSAE", {**params, "group_sizes": torch.tensor(sizes)}
    return "BatchTopKSAE", params


def _unit_rows(params: Params) -> Params:
    if silent := (decoder_norms(params) == 0).nonzero().flatten().tolist():
        raise ConfigError(
            f"the decoder rows of latents {silent[:5]} are zero, and {LIBRARY} divides by their norm on loading",
            hint="use --to saelens",
        )
    return unit_rows(params)


def _to_their_layout(key: str, value: Tensor) -> Tensor:
    """Returns a copy of a tensor, transposed if it belongs to a torch.nn.Linear of theirs."""
    return (value.T if key in LINEAR.values() else value).clone(memory_format=torch.contiguous_format)


def _int32(value: int) -> Tensor:
    return torch.tensor(value, dtype=torch.int32)
