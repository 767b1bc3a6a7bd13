"""Llama Scope's, llamascopium's and Qwen-Scope's SAEs, written by hand, and their authors' formulas in plain torch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from helpers.other_libraries import D_IN, D_SAE, K, randn

HOOK = "blocks.1.hook_resid_post"
NORM = 3.0
"""Mean norm of the activations in training; they were multiplied by sqrt(24) / 3 = 1.63."""
THRESHOLD = 0.4
REPOSITORY = "SAE-Res-Qwen3-1.7B-Base-W32K-L0_50"

Values = tuple[Tensor, Tensor]
"""acts (batch, d_sae) and x_hat (batch, d_in)."""


def parameters() -> dict[str, Tensor]:
    """Returns W (d_in, d_sae), b, D (d_sae, d_in) with rows of uneven norm, c, and log thresholds of latents."""
    return {
        "W": randn(D_IN, D_SAE, seed=1, scale=0.3),
        "b": randn(D_SAE, seed=3, scale=0.3),
        "D": randn(D_SAE, D_IN, seed=2, scale=0.25),
        "c": randn(D_IN, seed=4),
        "log_threshold": randn(D_SAE, seed=5, scale=0.3) - 0.5,
    }


def linear_layers(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Returns the parameters as two torch.nn.Linear hold them."""
    w = parameters()
    layers = {"encoder.weight": w["W"].T, "encoder.bias": w["b"], "decoder.weight": w["D"].T, "decoder.bias": w["c"]}
    return {name: value.contiguous().to(dtype) for name, value in layers.items()}


def write_llama_scope(folder: Path, dtype: torch.dtype = torch.float32, **config: Any) -> Path:
    """Writes a folder of lm-saes of 2024, with the keys of `hyperparams.json` that change the function."""
    (folder / "checkpoints").mkdir(parents=True)
    save_file(linear_layers(dtype), folder / "checkpoints" / "final.safetensors")
    keys = {"hook_point_in": HOOK, "hook_point_out": HOOK, "d_model": D_IN, "d_sae": D_SAE, "expansion_factor": 8}
    keys |= {"act_fn": "jumprelu", "jump_relu_threshold": THRESHOLD, "top_k": K, "norm_activation": "dataset-wise"}
    keys |= {"dataset_average_activation_norm": {"in": NORM, "out": NORM}, "sparsity_include_decoder_norm": True}
    keys |= {"use_decoder_bias": True, "apply_decoder_bias_to_pre_encoder": False, "use_glu_encoder": False}
    (folder / "hyperparams.json").write_text(json.dumps(keys | config))
    return folder


def llama_scope_values(folder: Path, x: Tensor) -> Values:
    """Computes acts and x_hat as lm-saes of 2024-10 does: `from_config` folds both norms in, then `encode` runs."""
    config, w = json.loads((folder / "hyperparams.json").read_text()), parameters()
    norms = config["dataset_average_activation_norm"] or {"in": NORM, "out": NORM}
    scaled = config["norm_activation"] == "dataset-wise"
    scale, scale_out = (math.sqrt(D_IN) / norms[end] if scaled else 1.0 for end in ("in", "out"))
    D = w["D"] * scale / scale_out
    lengths = D.norm(dim=1) if config["sparsity_include_decoder_norm"] else torch.ones(D_SAE)
    W, b, D, c = w["W"] * lengths, w["b"] / scale * lengths, D / lengths[:, None], w["c"] / scale_out
    hidden = (x - c if config["apply_decoder_bias_to_pre_encoder"] else x) @ W + b
    if config["act_fn"] == "topk":
        kept = hidden.relu().topk(config["top_k"], dim=-1)
        acts = torch.zeros_like(hidden).scatter(-1, kept.indices, kept.values)
    elif config["act_fn"] == "relu":
        acts = hidden.clamp(min=0)
    else:
        acts = hidden.where(hidden > config["jump_relu_threshold"], 0.0)
    return acts, acts @ D + c


def write_llamascopium(
    folder: Path, linear: bool = False, norm: float | None = NORM, norm_out: float | None = None, **config: Any
) -> Path:
    """Writes a folder of llamascopium; `linear`: with the names of tensors that it had until 2025-06."""
    folder.mkdir(parents=True)
    w = parameters()
    keys: dict[str, Any] = {"sae_type": "sae", "d_model": D_IN, "expansion_factor": D_SAE / D_IN, "act_fn": "jumprelu"}
    keys |= {"norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True, "top_k": K}
    keys |= {"use_decoder_bias": True, "hook_point_in": HOOK, "hook_point_out": HOOK, "use_glu_encoder": False}
    keys |= {"use_triton_kernel": False, "jumprelu_threshold_window": 2.0} | config
    tensors = linear_layers() if linear else {"W_E": w["W"], "b_E": w["b"], "W_D": w["D"], "b_D": w["c"]}
    if keys["act_fn"] == "jumprelu":
        tensors[("" if linear else "activation_function.") + "log_jumprelu_threshold"] = w["log_threshold"]
    if not keys["use_decoder_bias"]:
        tensors.pop("decoder.bias" if linear else "b_D")
    if norm is not None:
        tensors[f"dataset_average_activation_norm.{keys['hook_point_in']}"] = torch.tensor(norm)
    if norm_out is not None:
        tensors[f"dataset_average_activation_norm.{keys['hook_point_out']}"] = torch.tensor(norm_out)
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "config.json").write_text(json.dumps(keys))
    return folder


def llamascopium_values(folder: Path, x: Tensor, norm_out: float = NORM) -> Values:
    """Computes acts in units of training, and x_hat in raw units, as llamascopium 2.0.0b34 does for a raw x.

    `normalize_activations`, `encode`, `decode`, `denormalize_activations`.
    """
    config, w = json.loads((folder / "config.json").read_text()), parameters()
    scaled = config["norm_activation"] == "dataset-wise"
    scale, scale_out = (math.sqrt(D_IN) / norm if scaled else 1.0 for norm in (NORM, norm_out))
    lengths = w["D"].norm(dim=1) if config["sparsity_include_decoder_norm"] else torch.ones(D_SAE)
    scores = (x * scale @ w["W"] + w["b"]) * lengths
    if config["act_fn"] == "topk":
        kept = scores.relu().topk(config["top_k"], dim=-1)
        scores = torch.zeros_like(scores).scatter(-1, kept.indices, kept.values)
    elif config["act_fn"] == "relu":
        scores = scores.relu()
    else:
        scores = scores * (scores > w["log_threshold"].exp())
    acts = scores / lengths
    return acts, (acts @ w["D"] + (w["c"] if config["use_decoder_bias"] else 0.0)) / scale_out


def qwen_tensors(d_sae: int = D_SAE) -> dict[str, Tensor]:
    return {
        "W_enc": randn(d_sae, D_IN, seed=1, scale=0.3),
        "W_dec": randn(D_IN, d_sae, seed=2),
        "b_enc": randn(d_sae, seed=3, scale=0.3),
        "b_dec": randn(D_IN, seed=4),
    }


def write_qwen_scope(file: Path, changed: dict[str, Tensor | None] | None = None, d_sae: int = D_SAE) -> Path:
    """Writes one layer's file; a tensor given as None is left out."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = qwen_tensors(d_sae) | (changed or {})
    torch.save({name: value for name, value in tensors.items() if value is not None}, file)
    return file


def qwen_values(x: Tensor, k: int = K) -> Values:
    """Computes acts and x_hat as SAELens 6.54.12 does for the arrays of `qwen_tensors`."""
    w = qwen_tensors()
    kept = (x @ w["W_enc"].T + w["b_enc"]).topk(k, dim=-1)
    acts = torch.zeros(len(x), D_SAE).scatter(-1, kept.indices, kept.values.relu())
    return acts, acts @ w["W_dec"].T + w["b_dec"]
