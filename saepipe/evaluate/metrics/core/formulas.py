"""Formulas of docs/metrics/core.md: the core metrics as ratios of sums. SAEBench's formulas: `saebench_formulas.py`.

Each is a ratio of two sums over documents, and therefore has an interval over documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from saepipe.evaluate.metrics.base import Figure
from saepipe.evaluate.metrics.core.document_sums import DocumentSums
from saepipe.evaluate.sae.firing import ActiveCounts, weight_figures
from saepipe.evaluate.sae.reconstruction import Autoencoder
from saepipe.evaluate.stats.intervals import Estimate, ratio

Latents = dict[str, np.ndarray]

_NO_TOKENS = "no held-out token was kept"
_NO_SCORED_TOKENS = "no position has an ordinary token both as input and as target"
_NO_VARIATION = "the held-out activations do not vary"
_NO_EFFECT = "what replaces the activations does not change the model's predictions"
_NO_HARM = "with what replaces the activations the model does no worse"


@dataclass(frozen=True)
class CoreSums:
    """Document sums behind one SAE's core figures, per pass of the model."""

    sae: DocumentSums
    clean: DocumentSums
    ablated: DocumentSums
    others: Mapping[str, DocumentSums]
    """other replacements of the activations by name: `mean_ablation`, and of a skip transcoder `skip_alone` (all
    latents silent) and `without_skip`"""


def metrics(sums: CoreSums, latents: Latents, num_positions: int) -> dict[str, dict[str, Figure]]:
    """Returns figures under SAEBench's categories and keys, with corrected definitions."""
    s, tokens = sums.sae, sums.sae["tokens"]
    return {
        "model_behavior_preservation": _behaviour(sums),
        "model_performance_preservation": _performance(sums),
        "reconstruction_quality": {
            "explained_variance": ratio(s["variation"] - s["error"], s["variation"], _NO_VARIATION),
            "explained_variance_legacy": ratio(s["legacy"], s["varied"], _NO_VARIATION),
            "mse": ratio(s["error"], tokens, _NO_TOKENS),
            "cossim": ratio(s["cosine"], tokens, _NO_TOKENS),
        },
        "shrinkage": {
            "l2_norm_in": ratio(s["norm_in"], tokens, _NO_TOKENS),
            "l2_norm_out": ratio(s["norm_out"], tokens, _NO_TOKENS),
            "l2_ratio": ratio(s["norm_ratio"], s["nonzero"], "all held-out activations are zero"),
            "relative_reconstruction_bias": ratio(
                s["square_out"], s["product"], "activations and reconstructions are orthogonal on average"
            ),
        },
        "sparsity": {"l0": ratio(s["l0"], tokens, _NO_TOKENS), "l1": ratio(s["l1"], tokens, _NO_TOKENS)},
        "token_stats": {
            "total_tokens_eval_reconstruction": num_positions,
            "total_tokens_eval_sparsity_variance": num_positions,
        },
        "misc_metrics": _misc(latents),
    }


def extra(sums: CoreSums) -> dict[str, Figure]:
    """Returns the figures for which SAEBench has no key."""
    s, clean, ablated = sums.sae, sums.clean, sums.ablated
    return {
        "fvu": ratio(s["error"], s["variation"], _NO_VARIATION),
        "delta_ce": ratio(s["ce"] - clean["ce"], s["scored"], _NO_SCORED_TOKENS),
        "delta_ce_with_ablation": ratio(ablated["ce"] - clean["ce"], s["scored"], _NO_SCORED_TOKENS),
        **_with_others(sums),
    }


def _with_others(sums: CoreSums) -> dict[str, Figure]:
    """Returns what other replacements cost, and the share of that which the reconstruction avoids."""
    figures: dict[str, Figure] = {}
    for name, other in sums.others.items():
        figures[f"delta_ce_{name}"] = ratio(other["ce"] - sums.clean["ce"], sums.sae["scored"], _NO_SCORED_TOKENS)
        figures[f"ce_loss_score_{name}"] = _ce_loss_score(sums, other)
    return figures


def _ce_loss_score(sums: CoreSums, replaced: DocumentSums) -> Figure:
    """Returns the share of a replacement's loss increase that the SAE avoids; undefined if it does no harm."""
    harm = replaced["ce"] - sums.clean["ce"]
    if harm.sum() < 0:
        return Estimate(None, reason=_NO_HARM)
    return ratio(replaced["ce"] - sums.sae["ce"], harm, _NO_EFFECT)


def warnings(sums: CoreSums, vocab_size: int) -> list[str]:
    """Returns reasons why the figures are uninformative."""
    scored = sums.sae["scored"].sum()
    return chance_warnings(float(sums.clean["ce"].sum() / scored), vocab_size) if scored else []


def chance_warnings(ce: float, vocab_size: int) -> list[str]:
    """Returns a warning if the clean model's mean cross-entropy is no better than chance on the text."""
    chance = math.log(vocab_size)
    if not ce >= chance:
        return []
    return [
        f"the model's own loss on the held-out text, {ce:.2f} nats, is no better than a uniform guess "
        f"({chance:.2f}): CE and KL say nothing about an SAE here"
    ]


def _performance(sums: CoreSums) -> dict[str, Figure]:
    count = sums.sae["scored"]
    return {
        "ce_loss_score": _ce_loss_score(sums, sums.ablated),
        "ce_loss_with_ablation": ratio(sums.ablated["ce"], count, _NO_SCORED_TOKENS),
        "ce_loss_with_sae": ratio(sums.sae["ce"], count, _NO_SCORED_TOKENS),
        "ce_loss_without_sae": ratio(sums.clean["ce"], count, _NO_SCORED_TOKENS),
    }


def _behaviour(sums: CoreSums) -> dict[str, Figure]:
    count, spliced, ablated = sums.sae["scored"], sums.sae["kl"], sums.ablated["kl"]
    return {
        "kl_div_score": ratio(ablated - spliced, ablated, _NO_EFFECT),
        "kl_div_with_ablation": ratio(ablated, count, _NO_SCORED_TOKENS),
        "kl_div_with_sae": ratio(spliced, count, _NO_SCORED_TOKENS),
    }


def latent_figures(sae: Autoencoder, active: ActiveCounts, num_tokens: int, *, with_zeros: bool = False) -> Latents:
    """Returns per-latent columns by SAEBench's key, (d_sae,) float64; NaN if a dead latent or zero vector has no value.

    See `max_cosine` for with_zeros.
    """
    columns = {
        "feature_density": active.tokens.double() / num_tokens,
        "consistent_activation_heuristic": active.tokens.double() / active.contexts,
        **weight_figures(sae, with_zeros=with_zeros),
    }
    return {name: column.double().cpu().numpy() for name, column in columns.items()}


def details(latents: Latents) -> list[dict[str, int | float | None]]:
    """Returns one entry per latent, as SAEBench writes them; null instead of NaN."""
    rows = zip(*(column.tolist() for column in latents.values()), strict=True)
    return [
        {"index": index}
        | {name: None if math.isnan(value) else round(value, 10) for name, value in zip(latents, row, strict=True)}
        for index, row in enumerate(rows)
    ]


def _misc(latents: Latents) -> dict[str, Figure]:
    density = latents["feature_density"]
    undefined = Estimate(None, reason="no latent was active")
    dense = {"1": density[density > 0.01], "10": density[density > 0.1]}
    return {
        **{f"freq_over_{limit}_percent": len(over) / len(density) for limit, over in dense.items()},
        **{
            f"normalized_freq_over_{limit}_percent": float(over.sum() / density.sum()) if density.any() else undefined
            for limit, over in dense.items()
        },
        "average_max_encoder_cosine_sim": _average(latents["max_encoder_cosine_sim"]),
        "average_max_decoder_cosine_sim": _average(latents["max_decoder_cosine_sim"]),
        "frac_alive": float((density > 0).mean()),
    }


def _average(cosines: np.ndarray) -> Figure:
    """Returns the mean over the latents that have a cosine."""
    defined = cosines[~np.isnan(cosines)]
    return float(defined.mean()) if len(defined) else Estimate(None, reason="no two weight vectors to compare")
