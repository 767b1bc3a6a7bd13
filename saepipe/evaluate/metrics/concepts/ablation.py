"""Latents that carry a concept, and pooled activations and probe logits without them, for SCR and TPP.

After SAEBench 0.6.0 and SHIFT (Marks et al. 2024, arXiv 2403.19647). Ablating latents takes `acts_j W_dec[j]` away at
every token, whatever the other latents and the reconstruction error are, since decoding is affine. So a text's mean
activation without them is a closed form in the latents' sums over its tokens, and one encode of the texts serves every
set of latents and every probe.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saepipe.data.errors import ConfigError
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.texts.pooled import TextActivations, pooled_latents


def attribution(difference: Tensor, W_dec: Tensor, direction: Tensor, *, signed: bool) -> Tensor:
    """Returns how far each latent moves a probe between the classes: difference_j (W_dec[j] . direction), (d_sae,).

    Args:
        difference: (d_sae,) mean pooled activation on the positive training texts less that on the negative ones.
        W_dec: (d_sae, d_in).
        direction: (d_in,) the probe's weights.
        signed: True counts only what supports the positive class, max(difference, 0) (W_dec . direction), as in TPP;
            False takes absolute values, as in SCR.
    """
    dots = W_dec @ direction.to(W_dec)
    return difference.clamp(min=0) * dots if signed else (difference * dots).abs()


def latents_to_ablate(effects: Tensor, num: int, mode: Mode) -> Tensor:
    """Returns the indices of the latents to ablate, those with the largest effects first: at most `num`, int64.

    fixed: only latents with an effect above 0. reference: as many as have an effect other than 0, taken from the
    largest down, so that latents with effect 0 take the place of those with a negative one.

    Args:
        effects: (d_sae,).
        num: number of latents wanted; in mode fixed, all there are if the SAE has fewer.

    Raises:
        ConfigError: in mode reference, if the SAE has fewer latents than `num`.
    """
    if mode == "reference" and num > len(effects):
        raise ConfigError(
            f"cannot ablate {num} latents of an SAE that has {len(effects)}",
            hint="choose smaller n_values, or mode: fixed, which ablates as many as there are",
        )
    eligible = effects > 0 if mode == "fixed" else effects != 0
    return effects.topk(min(num, int(eligible.sum()))).indices


@torch.no_grad()
def latent_sums(subject: Subject, activations: TextActivations, latents: Tensor, mode: Mode) -> Tensor:
    """Returns (num_texts, num_latents) float32: the sum of each latent's activation over the tokens of each text.

    In mode reference a special position (BOS, padding) counts as a token whose activation is the zero vector, as it
    does in SAEBench: it adds encode(0).

    Args:
        subject: the SAE.
        activations: activations of the texts.
        latents: (num_latents,) int64; only these are encoded if the SAE allows it.
        mode: reference counts special positions.
    """
    sums = pooled_latents(subject, activations, latents) * activations.num_tokens[:, None]
    if mode == "reference":
        acts_at_zero = subject.encode(torch.zeros(1, activations.x.shape[1]), latents).cpu()
        sums += activations.num_special[:, None] * acts_at_zero
    return sums


def ablated_pooled(pooled: Tensor, latent_sums: Tensor, W_dec: Tensor, num_tokens: Tensor, selected: Tensor) -> Tensor:
    """Returns mean activations of texts with the `selected` latents ablated and the reconstruction error kept.

        pooled'_b = pooled_b - sum_{j in selected} latent_sums_bj W_dec[j] / num_tokens_b

    Args:
        pooled: (num_texts, d_in).
        latent_sums: (num_texts, num_latents), see `latent_sums`.
        W_dec: (num_latents, d_in), rows in the same order.
        num_tokens: (num_texts,).
        selected: (num_selected,) int64 positions among those latents.
    """
    return pooled - latent_sums[:, selected] @ W_dec[selected] / num_tokens[:, None]


def ablated_logits(logits: Tensor, latent_sums: Tensor, dots: Tensor, num_tokens: Tensor, selected: Tensor) -> Tensor:
    """Returns the logits of linear probes on `ablated_pooled`, without computing it, (num_texts, num_probes).

    Args:
        logits: (num_texts, num_probes) on the pooled activations before ablation.
        latent_sums: (num_texts, num_latents).
        dots: (num_latents, num_probes), W_dec @ directions.T.
        num_tokens: (num_texts,).
        selected: (num_selected,) int64 positions among those latents.
    """
    return logits - latent_sums[:, selected] @ dots[selected] / num_tokens[:, None]
