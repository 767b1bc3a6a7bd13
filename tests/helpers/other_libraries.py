"""SAEs in the formats of other libraries, written by hand, and these libraries' own formulas in plain torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from saepipe.train.formats.source import Source

D_IN, D_SAE, K = 24, 40, 6


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tensors(kind: str) -> dict[str, Tensor]:
    """Returns the tensors of `ae.pt`, with decoder rows of uneven norm."""
    linear = {"encoder.weight": randn(D_SAE, D_IN, seed=1, scale=0.3), "decoder.weight": randn(D_IN, D_SAE, seed=2)}
    plain = {"W_enc": linear["encoder.weight"].T.contiguous(), "W_dec": linear["decoder.weight"].T.contiguous()}
    b_enc, b_dec = randn(D_SAE, seed=3, scale=0.3), randn(D_IN, seed=4)
    counts = {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(0.7)}
    return {
        "AutoEncoder": {**linear, "bias": b_dec, "encoder.bias": b_enc},
        "AutoEncoderTopK": {**linear, "b_dec": b_dec, "encoder.bias": b_enc, **counts},
        "BatchTopKSAE": {**linear, "b_dec": b_dec, "encoder.bias": b_enc, **counts},
        "MatryoshkaBatchTopKSAE": {
            **plain,
            "b_dec": b_dec,
            "b_enc": b_enc,
            **counts,
            "group_sizes": torch.tensor([10, 30]),
        },
        "JumpReluAutoEncoder": {
            **plain,
            "b_dec": b_dec,
            "b_enc": b_enc,
            "threshold": 0.5 * torch.rand(D_SAE, generator=torch.Generator().manual_seed(5)) - 0.1,
        },
        "GatedAutoEncoder": {
            **linear,
            "decoder_bias": b_dec,
            "r_mag": randn(D_SAE, seed=6, scale=0.2),
            "gate_bias": b_enc,
            "mag_bias": randn(D_SAE, seed=7, scale=0.3),
        },
    }[kind]


def write_trainer(folder: Path, kind: str, changed: dict[str, Tensor | None] | None = None, **trainer: Any) -> Path:
    """Writes dictionary_learning's folder `trainer_<i>`; a tensor given as None is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value for name, value in (tensors(kind) | (changed or {})).items() if value is not None}
    torch.save(weights, folder / "ae.pt")
    settings = {"dict_class": kind, "activation_dim": D_IN, "dict_size": D_SAE, "layer": 1, "lm_name": "EleutherAI/Toy"}
    settings |= {"seed": 3, "submodule_name": "resid_post_layer_1"} | ({"k": K} if "k" in weights else {})
    config = {"trainer": settings | trainer, "buffer": {"ctx_len": 128, "d_submodule": D_IN, "io": "out"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def encode(kind: str, w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Computes acts (batch, d_sae) by dictionary_learning's own formulas (0.1.0, dictionary.py and trainers/*.py)."""
    if kind == "JumpReluAutoEncoder":
        p = x @ w["W_enc"] + w["b_enc"]
        return (p * (p > w["threshold"])).relu()
    if kind == "MatryoshkaBatchTopKSAE":
        p = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
        return p * (p > w["threshold"])
    if kind == "GatedAutoEncoder":
        p = (x - w["decoder_bias"]) @ w["encoder.weight"].T
        return (p + w["gate_bias"] > 0) * (w["r_mag"].exp() * p + w["mag_bias"]).relu()
    p = ((x - w.get("b_dec", w.get("bias"))) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    if kind == "AutoEncoderTopK":
        kept = p.topk(K, dim=-1)
        return torch.zeros_like(p).scatter(-1, kept.indices, kept.values)
    if kind == "BatchTopKSAE":
        return p * (p > w["threshold"])
    return p * w["decoder.weight"].norm(dim=0)  # from_pretrained scales the decoder's columns to unit norm


def decode(kind: str, w: dict[str, Tensor], acts: Tensor) -> Tensor:
    if "W_dec" in w:
        return acts @ w["W_dec"] + w["b_dec"]
    W_dec = w["decoder.weight"].T
    if kind == "AutoEncoder":
        W_dec = W_dec / W_dec.norm(dim=1, keepdim=True)
    return acts @ W_dec + w.get("b_dec", w.get("bias", w.get("decoder_bias")))


def write_gemma_scope(file: Path, change: Callable[[str], str] = str, **more: Any) -> Path:
    """Writes Gemma Scope's arrays."""
    arrays = {name: value.numpy() for name, value in tensors("JumpReluAutoEncoder").items()}
    file.parent.mkdir(parents=True)
    np.savez(file, **{change(name): value for name, value in (arrays | more).items()})
    return file


def write_gemma_scope_2(folder: Path, more: dict[str, Tensor] | None = None, **config: Any) -> Path:
    """Writes Gemma Scope 2's folder, with the keys of its config.json."""
    arrays = {name.lower(): value for name, value in tensors("JumpReluAutoEncoder").items()}
    folder.mkdir(parents=True)
    save_file(arrays | (more or {}), folder / "params.safetensors")
    keys = {"architecture": "jump_relu", "model_name": "google/gemma-3-1b-pt", "width": D_SAE, "l0": 7, "type": "sae"}
    keys |= {"hf_hook_point_in": "model.layers.9.output", "hf_hook_point_out": "model.layers.9.output"}
    (folder / "config.json").write_text(json.dumps(keys | {"affine_connection": False} | config))
    return folder


def write_sparsify(folder: Path, d_sae: int = D_SAE, dtype: torch.dtype = torch.float32, **config: Any) -> Path:
    """Writes one hookpoint's folder of sparsify."""
    weights = {
        "encoder.weight": randn(d_sae, D_IN, seed=1, scale=0.3),
        "encoder.bias": randn(d_sae, seed=3, scale=0.3),
        "W_dec": randn(d_sae, D_IN, seed=2),
        "b_dec": randn(D_IN, seed=4),
    }
    folder.mkdir(parents=True)
    save_file({name: value.to(dtype) for name, value in weights.items()}, folder / "sae.safetensors")
    keys = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": d_sae, "k": K}
    keys |= {"multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D_IN}
    (folder / "cfg.json").write_text(json.dumps(keys | config))
    return folder


def check_function(source: Source, rows: Tensor, acts: Tensor, x_hat: Tensor) -> None:
    """Asserts that the SAE gives the expected `acts` and `x_hat`, with latents neither all active nor all inactive."""
    actual = source.sae.encode(source.params, rows)
    assert 0.01 < (acts > 0).float().mean() < 0.9
    torch.testing.assert_close(actual, acts)
    assert torch.equal(actual > 0, acts > 0)
    torch.testing.assert_close(source.sae.decode(source.params, acts), x_hat)
