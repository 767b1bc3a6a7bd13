"""The core metrics as ratios of sums: the formulas of docs/metrics/core.md. SAEBench's own: `saebench.py`.

Since each is a ratio of two sums over documents, each has an interval over documents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from saepipe.evaluate.metrics.base import Figure
from saepipe.evaluate.metrics.core.document_sums import Sums
from saepipe.evaluate.sae.firing import Firing, weight_figures
from saepipe.evaluate.sae.reconstruction import Autoencoder
from saepipe.evaluate.stats.intervals import Estimate, ratio

Latents = dict[str, np.ndarray]

_NO_TOKEN = "no held-out token was kept"
_NONE_SCORED = "no position has an ordinary token as input and as target"
_NO_VARIATION = "the held-out activations do not vary"
_NO_EFFECT = "zeros at the hook do not change the model's predictions"
_NO_HARM = "the model predicts this text no worse with zeros at the hook, so there is no loss to recover"


@dataclass(frozen=True)
class CoreSums:
    """What one SAE's core figures are made of."""

    sae: Sums
    clean: Sums
    ablated: Sums


def metrics(sums: CoreSums, latents: Latents, num_positions: int) -> dict[str, dict[str, Figure]]:
    """SAEBench's categories and keys, by the right definitions."""
    s, tokens = sums.sae, sums.sae["tokens"]
    return {
        "model_behavior_preservation": _behaviour(sums),
        "model_performance_preservation": _performance(sums),
        "reconstruction_quality": {
            "explained_variance": ratio(s["variation"] - s["error"], s["variation"], _NO_VARIATION),
            "explained_variance_legacy": ratio(s["legacy"], s["varied"], _NO_VARIATION),
            "mse": ratio(s["error"], tokens, _NO_TOKEN),
            "cossim": ratio(s["cosine"], tokens, _NO_TOKEN),
        },
        "shrinkage": {
            "l2_norm_in": ratio(s["norm_in"], tokens, _NO_TOKEN),
            "l2_norm_out": ratio(s["norm_out"], tokens, _NO_TOKEN),
            "l2_ratio": ratio(s["norm_ratio"], s["nonzero"], "all held-out activations are zero"),
            "relative_reconstruction_bias": ratio(
                s["square_out"], s["product"], "activations and reconstructions are orthogonal on the whole"
            ),
        },
        "sparsity": {"l0": ratio(s["l0"], tokens, _NO_TOKEN), "l1": ratio(s["l1"], tokens, _NO_TOKEN)},
        "token_stats": {
            "total_tokens_eval_reconstruction": num_positions,
            "total_tokens_eval_sparsity_variance": num_positions,
        },
        "misc_metrics": _misc(latents),
    }


def extra(sums: CoreSums) -> dict[str, Figure]:
    """What SAEBench has no key for."""
    s, clean, ablated = sums.sae, sums.clean, sums.ablated
    return {
        "fvu": ratio(s["error"], s["variation"], _NO_VARIATION),
        "delta_ce": ratio(s["ce"] - clean["ce"], s["scored"], _NONE_SCORED),
        "delta_ce_with_ablation": ratio(ablated["ce"] - clean["ce"], s["scored"], _NONE_SCORED),
    }


def _ce_loss_score(sums: CoreSums) -> Figure:
    """The share of the ablation's harm that the SAE spares; it means something only where there is harm."""
    harm = sums.ablated["ce"] - sums.clean["ce"]
    if harm.sum() < 0:
        return Estimate(None, reason=_NO_HARM)
    return ratio(sums.ablated["ce"] - sums.sae["ce"], harm, _NO_EFFECT)


def warnings(sums: CoreSums, vocab_size: int) -> list[str]:
    """What keeps the figures from showing anything."""
    scored = sums.sae["scored"].sum()
    return chance_warnings(float(sums.clean["ce"].sum() / scored), vocab_size) if scored else []


def chance_warnings(ce: float, vocab_size: int) -> list[str]:
    """Where the clean model's mean cross-entropy shows that it knows nothing of the text."""
    chance = math.log(vocab_size)
    if not ce >= chance:
        return []
    return [
        f"the model's own loss on the held-out text, {ce:.2f} nats, is no better than a uniform guess "
        f"({chance:.2f}): CE and KL say nothing of an SAE here"
    ]


def _performance(sums: CoreSums) -> dict[str, Figure]:
    count = sums.sae["scored"]
    return {
        "ce_loss_score": _ce_loss_score(sums),
        "ce_loss_with_ablation": ratio(sums.ablated["ce"], count, _NONE_SCORED),
        "ce_loss_with_sae": ratio(sums.sae["ce"], count, _NONE_SCORED),
        "ce_loss_without_sae": ratio(sums.clean["ce"], count, _NONE_SCORED),
    }


def _behaviour(sums: CoreSums) -> dict[str, Figure]:
    count, spliced, ablated = sums.sae["scored"], sums.sae["kl"], sums.ablated["kl"]
    return {
        "kl_div_score": ratio(ablated - spliced, ablated, _NO_EFFECT),
        "kl_div_with_ablation": ratio(ablated, count, _NONE_SCORED),
        "kl_div_with_sae": ratio(spliced, count, _NONE_SCORED),
    }


def latent_figures(sae: Autoencoder, firing: Firing, num_tokens: int, *, with_zeros: bool = False) -> Latents:
    """By SAEBench's key, (d_sae,) float64; NaN for what a silent latent or a vector of zeros does not have.

    See `max_cosine` for with_zeros.
    """
    columns = {
        "feature_density": firing.tokens.double() / num_tokens,
        "consistent_activation_heuristic": firing.tokens.double() / firing.contexts,
        **weight_figures(sae, with_zeros=with_zeros),
    }
    return {name: column.double().cpu().numpy() for name, column in columns.items()}


def details(latents: Latents) -> list[dict[str, int | float | None]]:
    """One entry a latent, as SAEBench writes them; null where there is no number."""
    rows = zip(*(column.tolist() for column in latents.values()), strict=True)
    return [
        {"index": index}
        | {name: None if math.isnan(value) else round(value, 10) for name, value in zip(latents, row, strict=True)}
        for index, row in enumerate(rows)
    ]


def _misc(latents: Latents) -> dict[str, Figure]:
    density = latents["feature_density"]
    silent = Estimate(None, reason="no latent was active")
    shares = {"1": density[density > 0.01], "10": density[density > 0.1]}
    return {
        **{f"freq_over_{share}_percent": len(over) / len(density) for share, over in shares.items()},
        **{
            f"normalized_freq_over_{share}_percent": float(over.sum() / density.sum()) if density.any() else silent
            for share, over in shares.items()
        },
        "average_max_encoder_cosine_sim": _average(latents["max_encoder_cosine_sim"]),
        "average_max_decoder_cosine_sim": _average(latents["max_decoder_cosine_sim"]),
        "frac_alive": float((density > 0).mean()),
    }


def _average(cosines: np.ndarray) -> Figure:
    """The mean over the latents that have one."""
    known = cosines[~np.isnan(cosines)]
    return float(known.mean()) if len(known) else Estimate(None, reason="no two weight vectors to compare")
