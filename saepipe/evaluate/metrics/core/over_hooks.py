"""Core of a crosscoder: at each of its hooks it is a transcoder that reads all of them and reconstructs that one.

So every figure is measured hook by hook, with the activations of the other hooks as they are. A crosscoder's own is the
mean over its hooks, with the mean of the intervals' ends: exact if the hooks' errors go together, wider than necessary
if they do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isnan
from statistics import fmean
from typing import Any

import torch

from saepipe.data.cache.joint_hooks import hooks_of
from saepipe.evaluate.metrics.base import Figure, Measurement
from saepipe.evaluate.sae.firing import weight_figures
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import Estimate
from saepipe.train.sae.crosscoder import norms_by_hook

SHARES = 20
"""Bins of the histogram of a hook's share in a latent's decoder norms."""

EXCLUSIVE = 0.1
"""A latent is exclusive to some hooks if each other one has less than this share of the largest norm."""


def over_hooks(subject: Subject, by_hook: Sequence[Measurement]) -> Measurement:
    """Returns the measurement of a crosscoder from those of its hooks, in order."""
    first, hooks = by_hook[0], hooks_of(str(subject.run.hook))
    metrics = {group: _means([each.metrics[group] for each in by_hook]) for group in first.metrics}
    whole = weight_figures(subject.sae)
    for kind in ("encoder", "decoder"):
        metrics["misc_metrics"][f"average_max_{kind}_cosine_sim"] = float(whole[f"max_{kind}_cosine_sim"].nanmean())
    return Measurement(
        metrics=metrics,
        extra=_means([each.extra for each in by_hook]),
        details=[{**row, **own} for row, own in zip(first.details, _by_latent(whole), strict=True)],
        more={
            "hooks": {hook: _plain(each) for hook, each in zip(hooks, by_hook, strict=True)},
            "decoder_norms": norm_profile(subject.sae.W_dec, subject.widths, subject.scales, hooks),
        },
        counts=first.counts,
        warnings=[f"{hook}: {text}" for hook, each in zip(hooks, by_hook, strict=True) for text in each.warnings],
        eval_config=first.eval_config,
    )


def _by_latent(weights: dict[str, torch.Tensor]) -> Iterator[dict[str, float | None]]:
    """Yields the figures of each latent's weights over all hooks; None for NaN."""
    for values in zip(*(figure.tolist() for figure in weights.values()), strict=True):
        yield {name: None if isnan(value) else value for name, value in zip(weights, values, strict=True)}


def norm_profile(
    W_dec: torch.Tensor, widths: Sequence[int], scales: Sequence[float], hooks: Sequence[str]
) -> dict[str, Any]:
    """Returns how latents share out their decoder norms among hooks; rows of zeros are left out.

    Norms are on the scale of training, where no hook counts more because its activations are longer.

    Args:
        W_dec: (d_sae, sum of widths), for raw activations.
        widths: channels of each hook.
        scales: factor by which training scaled each hook.
        hooks: their names.

    Returns:
        `mean_share` of each hook, and how many latents have a share in each of `SHARES` equal bins, `histogram`;
        `at_hooks`, how many latents write at 1, 2, ... hooks; `exclusive`, how many write at each hook alone. A latent
        writes where its norm is at least `EXCLUSIVE` of its largest.
    """
    norms = norms_by_hook(W_dec.detach().float().cpu(), widths) * torch.tensor(scales)
    norms = norms[norms.sum(1) > 0]
    shares = norms / norms.sum(1, keepdim=True)
    writes = norms >= EXCLUSIVE * norms.amax(1, keepdim=True)
    num = writes.sum(1)
    return {
        "mean_share": dict(zip(hooks, shares.mean(0).tolist(), strict=True)),
        "histogram": {
            hook: torch.histc(own, SHARES, 0, 1).long().tolist() for hook, own in zip(hooks, shares.T, strict=True)
        },
        "at_hooks": {str(count): int((num == count).sum()) for count in range(1, len(hooks) + 1)},
        "exclusive": {hook: int((own & (num == 1)).sum()) for hook, own in zip(hooks, writes.T, strict=True)},
    }


def _plain(measurement: Measurement) -> dict[str, Any]:
    """Returns the figures of one hook as plain data: value, low, high."""
    every: dict[str, Figure] = {}
    for group in (*measurement.metrics.values(), measurement.extra):
        every |= group
    return {
        key: [figure.value, figure.low, figure.high] if isinstance(figure, Estimate) else [figure, None, None]
        for key, figure in every.items()
    }


def _means(groups: Sequence[dict[str, Figure]]) -> dict[str, Figure]:
    """Returns the mean of each figure that all hooks have."""
    shared = [key for key in groups[0] if all(key in group for group in groups)]
    return {key: _mean([group[key] for group in groups]) for key in shared}


def _mean(figures: Sequence[Figure]) -> Figure:
    plain = [figure for figure in figures if not isinstance(figure, Estimate)]
    if len(plain) == len(figures):
        return plain[0] if len({*plain}) == 1 else fmean(plain)
    estimates = [figure if isinstance(figure, Estimate) else Estimate(float(figure)) for figure in figures]
    values = [estimate.value for estimate in estimates]
    if None in values:
        return next(estimate for estimate in estimates if estimate.value is None)
    ends = [[getattr(estimate, end) for estimate in estimates] for end in ("low", "high")]
    low, high = (None if None in each else fmean(each) for each in ends)
    return Estimate(fmean(value for value in values if value is not None), low, high)
