"""Which latents carry a concept, and what is left of pooled activations, and of a probe, without them.

Of SCR and TPP (SAEBench 0.6.0, after SHIFT: Marks et al. 2024, arXiv 2403.19647). Switching latents off takes
`acts_j W_dec[j]` away at every token, whatever the other latents and the error of the reconstruction are, since
decoding is affine. So a text's mean activation without them is a closed form in the latents' sums over its tokens,
and one encode of the texts serves every set of latents and every probe.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saepipe.data.errors import ConfigError
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.texts.pooled import TextActivations, pooled_latents


def attribution(difference: Tensor, W_dec: Tensor, direction: Tensor, *, signed: bool) -> Tensor:
    """How much each latent moves a probe between the classes: difference_j (W_dec[j] . direction), (d_sae,).

    Args:
        difference: (d_sae,) mean pooled activation on the positive training texts less that on the negative ones.
        W_dec: (d_sae, d_in).
        direction: (d_in,) the probe's weights.
        signed: True keeps what speaks for the positive class, max(difference, 0) (W_dec . direction), as TPP does;
            False takes the size of either, as SCR does.
    """
    along = W_dec @ direction.to(W_dec)
    return difference.clamp(min=0) * along if signed else (difference * along).abs()


def select(effects: Tensor, num: int, mode: Mode) -> Tensor:
    """The indices of the latents to switch off, those of the largest effects first: at most `num`, int64.

    fixed: only latents with an effect above 0. reference: as many as have an effect other than 0, taken from the
    largest down, so that latents of effect 0 stand in for those of a negative one.

    Args:
        effects: (d_sae,).
        num: how many are wanted; where the SAE has fewer, fixed takes what there is.

    Raises:
        ConfigError: in mode reference, if the SAE has fewer latents than `num`.
    """
    if mode == "reference" and num > len(effects):
        raise ConfigError(
            f"{num} latents are to be switched off, and the SAE has {len(effects)}",
            hint="choose smaller n_values, or mode: fixed, which takes what there is",
        )
    able = effects > 0 if mode == "fixed" else effects != 0
    return effects.topk(min(num, int(able.sum()))).indices


@torch.no_grad()
def latent_sums(subject: Subject, activations: TextActivations, latents: Tensor, mode: Mode) -> Tensor:
    """(num_texts, num_latents) float32: the sum of each latent's activation over the tokens of each text.

    In mode reference a position that was left out (BOS, padding) counts as a token whose activation is the zero
    vector, as it does there: it adds encode(0).

    Args:
        subject: the SAE.
        activations: of the texts.
        latents: (num_latents,) int64, those that are asked for; only they are encoded where the SAE allows it.
        mode: whether special positions count.
    """
    sums = pooled_latents(subject, activations, latents) * activations.num_tokens[:, None]
    if mode == "reference":
        on_zero = subject.encode(torch.zeros(1, activations.x.shape[1]), latents).cpu()
        sums += activations.num_special[:, None] * on_zero
    return sums


def ablated_pooled(pooled: Tensor, latent_sums: Tensor, W_dec: Tensor, num_tokens: Tensor, selected: Tensor) -> Tensor:
    """Mean activations of texts whose `selected` latents are off, the error of the reconstruction kept.

        pooled'_b = pooled_b - sum_{j in selected} latent_sums_bj W_dec[j] / num_tokens_b

    Args:
        pooled: (num_texts, d_in).
        latent_sums: (num_texts, num_latents), see `latent_sums`.
        W_dec: (num_latents, d_in), rows in the same order.
        num_tokens: (num_texts,).
        selected: (num_selected,) int64 places among those latents.
    """
    return pooled - latent_sums[:, selected] @ W_dec[selected] / num_tokens[:, None]


def ablated_logits(logits: Tensor, latent_sums: Tensor, along: Tensor, num_tokens: Tensor, selected: Tensor) -> Tensor:
    """What linear probes say of `ablated_pooled`, without making it, (num_texts, num_probes).

    Args:
        logits: (num_texts, num_probes) on the pooled activations as they are.
        latent_sums: (num_texts, num_latents).
        along: (num_latents, num_probes), W_dec @ directions.T.
        num_tokens: (num_texts,).
        selected: (num_selected,) int64 places among those latents.
    """
    return logits - latent_sums[:, selected] @ along[selected] / num_tokens[:, None]
