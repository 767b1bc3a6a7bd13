"""Core metrics of mode reference: as SAEBench 0.6.0 computes them (`evals/core/main.py`), faults included.

SAEBench writes -1 in place of NaN, and so does this module, with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from saepipe.evaluate.metrics.base import Figure
from saepipe.evaluate.metrics.core import formulas
from saepipe.evaluate.metrics.core.formulas import Latents
from saepipe.evaluate.model.next_token import Prediction
from saepipe.evaluate.sae.reconstruction import Reconstruction
from saepipe.evaluate.stats.intervals import Estimate
from saepipe.harvest.model import LanguageModel

Figures = dict[str, dict[str, Figure]]

_MIN_NORM = 1e-4
_NAN = "SAEBench gets NaN here and writes -1"
_INFINITE = "SAEBench gets infinity here"
_ZERO_DIVISION = "SAEBench divides by zero here and writes no file"


def ignored_ids(lm: LanguageModel) -> torch.Tensor:
    """Returns pad, EOS and BOS, (num_ignored,) int64, which SAEBench leaves out; it keeps other special tokens."""
    ids = {lm.bos_id, lm.tokenizer.eos_token_id, lm.tokenizer.pad_token_id}
    return torch.tensor(sorted(int(token) for token in ids if token is not None))


def token_sums(x: torch.Tensor, reconstruction: Reconstruction) -> dict[str, float]:
    """Returns the sums behind the activation figures over the kept tokens of one batch.

    Args:
        x: (num_tokens, d_in) activations.
        reconstruction: the SAE's output for them.
    """
    x, x_hat = x.double(), reconstruction.x_hat.double()
    norm_in, norm_out, product = x.norm(dim=1), x_hat.norm(dim=1), (x * x_hat).sum(1)
    error = (x - x_hat).square().sum(1)
    values = {
        "tokens": torch.ones_like(error),
        "error": error,
        "square_in": norm_in.square(),
        "square_out": norm_out.square(),
        "product": product,
        "norm_in": norm_in,
        "norm_out": norm_out,
        "norm_ratio": norm_out / norm_in.where(norm_in >= _MIN_NORM, 1.0),
        "cosine": product / (norm_in * norm_out),
        "legacy": 1 - error / (x - x.mean(0)).square().sum(1),
    }
    values |= {"l0": reconstruction.l0, "l1": reconstruction.signed_l1}
    return {name: float(value.sum(dtype=torch.float64)) for name, value in values.items()}


def mean_ce(prediction: Prediction, keep: torch.Tensor) -> float:
    """Returns the mean CE where the input is kept, (num_contexts, seq) bool, whatever the target."""
    return float(prediction.ce[:, :-1][keep[:, :-1]].double().mean())


def mean_kl(prediction: Prediction, keep: torch.Tensor) -> float:
    """Returns the mean KL where the input is kept, including the last position of a window."""
    return float(prediction.kl[keep].double().mean())


def figures_of_losses(ce: Mapping[str, float], kl: Mapping[str, float]) -> Figures:
    """Returns the CE and KL figures, given the means `with_ablation`, `with_sae` and `without_sae`."""
    return {
        "model_behavior_preservation": {
            "kl_div_score": _quotient(kl["with_ablation"] - kl["with_sae"], kl["with_ablation"]),
            "kl_div_with_ablation": to_figure(kl["with_ablation"]),
            "kl_div_with_sae": to_figure(kl["with_sae"]),
        },
        "model_performance_preservation": {
            "ce_loss_score": _quotient(ce["with_ablation"] - ce["with_sae"], ce["with_ablation"] - ce["without_sae"]),
            **{f"ce_loss_{name}": to_figure(value) for name, value in ce.items()},
        },
    }


def figures_of_activations(batches: Sequence[Mapping[str, float]], d_in: int) -> Figures:
    """Returns means over tokens, or over batches of equal weight.

    Args:
        batches: `token_sums` of each batch.
        d_in: width of the activations.
    """
    sums = {name: np.array([batch[name] for batch in batches]) for name in batches[0]}
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = {name: value.sum() / sums["tokens"].sum() for name, value in sums.items()}
        by_batch = {name: value / sums["tokens"] for name, value in sums.items()}
        second_moment = by_batch["square_in"].mean()
        variance = second_moment - (second_moment / d_in) ** 2
        raw = {
            "reconstruction_quality": {
                "explained_variance": 1 - by_batch["error"].mean() / variance,
                "explained_variance_legacy": mean["legacy"],
                "mse": by_batch["error"].sum() / sums["tokens"].sum(),
                "cossim": mean["cosine"],
            },
            "shrinkage": {
                "l2_norm_in": mean["norm_in"],
                "l2_norm_out": mean["norm_out"],
                "l2_ratio": mean["norm_ratio"],
                "relative_reconstruction_bias": (sums["square_out"] / sums["product"]).mean(),
            },
            "sparsity": {"l0": mean["l0"], "l1": mean["l1"]},
        }
    return {name: {key: to_figure(float(value)) for key, value in group.items()} for name, group in raw.items()}


def figures_of_latents(latents: Latents) -> dict[str, Figure]:
    """Returns aggregate figures of all latents from the per-latent columns."""
    density = latents["feature_density"]
    total = density.sum()
    return {
        "freq_over_1_percent": float((density > 0.01).mean()),
        "freq_over_10_percent": float((density > 0.1).mean()),
        "normalized_freq_over_1_percent": float(density[density > 0.01].sum() / total) if total > 0 else 0.0,
        "normalized_freq_over_10_percent": float(density[density > 0.1].sum() / total) if total > 0 else 0.0,
        "average_max_encoder_cosine_sim": to_figure(float(latents["max_encoder_cosine_sim"].mean())),
        "average_max_decoder_cosine_sim": to_figure(float(latents["max_decoder_cosine_sim"].mean())),
        "frac_alive": float((density > 0).mean()),
    }


def details(latents: Latents) -> list[dict[str, int | float | None]]:
    """Returns one entry per latent, with -1 for a missing value."""
    rows = formulas.details(latents)
    return [{key: -1.0 if value is None else value for key, value in row.items()} for row in rows]


def to_figure(value: float) -> Figure:
    """Returns a value as SAEBench's result file has it: -1 for NaN."""
    if math.isnan(value):
        return Estimate(-1.0, reason=_NAN)
    return Estimate(None, reason=_INFINITE) if math.isinf(value) else value


def _quotient(numerator: float, denominator: float) -> Figure:
    return to_figure(numerator / denominator) if denominator else Estimate(None, reason=_ZERO_DIVISION)
