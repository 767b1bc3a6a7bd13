"""Figures that tables show: all that the metrics know, and those that the runs declare as primary."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import cast

from saepipe.data.config.component import import_installed_plugins
from saepipe.evaluate.figure_specs import BUILT_IN, FigureSpec
from saepipe.evaluate.metrics.base import Metric
from saepipe.train.stored_config import StoredConfig

SHORT = (
    "l0",
    "explained_variance",
    "delta_ce",
    "ce_loss_score",
    "frac_alive",
    "mean_full_absorption_score",
    "mean_absorption_fraction_score",
    "sae_top_1_test_accuracy",
    "sae_top_5_test_accuracy",
    "pw_mcc",
    "pw_mcc_above_flipped",
)
"""Figures that a table for people shows besides the primary ones; JSON has all figures."""


def catalogue() -> dict[str, FigureSpec]:
    """Returns every figure that a metric knows, by key: those of SHORT first, then in the metrics' order."""
    import_installed_plugins()
    metrics = cast(Iterable[type[Metric]], Metric.members.values())
    shown = {**BUILT_IN, **{key: how for metric in metrics for key, how in metric.shown.items()}}
    return {key: shown[key] for key in dict.fromkeys((*SHORT, *shown)) if key in shown}


def primary_metrics(configs: Iterable[StoredConfig]) -> tuple[dict[str, float], str | None]:
    """Returns all declared primary metrics with their smallest effects, and a note if the configs disagree.

    More metrics make Holm's correction stricter, and a smaller effect is harder to detect, so the union is the careful
    choice if studies differ.
    """
    declared: list[Mapping[str, float]] = []
    for config in configs:
        if config.primary_metrics not in declared:
            declared.append(config.primary_metrics)
    union: dict[str, float] = {}
    for metrics in declared:
        for key, effect in metrics.items():
            union[key] = min(effect, union.get(key, effect))
    if len(declared) < 2:
        return union, None
    each = " against ".join(
        ", ".join(f"{key}: {effect:g}" for key, effect in metrics.items()) or "none" for metrics in declared
    )
    return union, f"the runs declare different primary metrics ({each}); all are used, each with its smallest effect"


def why_unknown(key: str, shown: Mapping[str, FigureSpec]) -> str | None:
    """Returns why `key` cannot be tested: no metric measures it, or seeds allow no test; None if it can be."""
    if key in shown:
        return shown[key].untestable
    near = difflib.get_close_matches(key, shown, n=1, cutoff=0.6)
    return f"no metric has a figure of that name{f'; did you mean {near[0]}?' if near else ''}"
