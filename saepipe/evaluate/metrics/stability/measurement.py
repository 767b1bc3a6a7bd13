"""Measurements of a variant's seeds: figures by key, each latent's agreement, and what makes them uninformative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saepipe.evaluate.metrics.base import Figure, Measurement
from saepipe.evaluate.metrics.stability.agreement import KINDS, Agreements
from saepipe.evaluate.metrics.stability.dictionary import Dictionary
from saepipe.evaluate.metrics.stability.seed_figures import FOUND, NAMES, SeedFigures, Values, least_cosine
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats import paired_seeds
from saepipe.evaluate.stats.intervals import Estimate

NEAR_CHANCE = 0.015
"""Excess over chance, relative to it, within which the decoders of short trainings lie (arXiv 2606.12138)."""

_AGAINST = ("", "_above_random", "_above_flipped")


@dataclass(frozen=True)
class SeedResult:
    """One seed of a variant that has at least two."""

    subject: Subject
    dictionary: Dictionary
    agreements: Agreements
    figures: SeedFigures


def measurements(seeds: Sequence[SeedResult]) -> list[Measurement]:
    """Returns one measurement per seed, in order."""
    all_figures = [seed.figures.with_excess() for seed in seeds]
    over_seeds = {key: _over_seeds(key, [values[key] for values in all_figures]) for key in all_figures[0]}
    return [
        _measurement(seed, [other for other in seeds if other is not seed], values, over_seeds)
        for seed, values in zip(seeds, all_figures, strict=True)
    ]


def undefined(reason: str, num_seeds: int) -> Measurement:
    """Returns a measurement without figures."""
    missing = Estimate(None, reason=reason)
    keys = [f"{key}{weighted}" for key in (*NAMES.values(), *FOUND) for weighted in ("", "_weighted")]
    metrics, extra = _by_category({f"{key}{against}": missing for key in keys for against in _AGAINST})
    extra |= {f"{name}_upper": missing for name in NAMES.values()}
    return Measurement(metrics=metrics, extra=extra, more={"num_seeds": num_seeds})


def _measurement(
    seed: SeedResult, others: Sequence[SeedResult], values: Values, over_seeds: Mapping[str, Any]
) -> Measurement:
    metrics, extra = _by_category(values)
    agreed = {name: seed.agreements[kind] for kind, name in NAMES.items()}
    uppers: dict[str, Figure] = {
        f"{name}_upper": sum(each.upper for each in pairs) / len(pairs) for name, pairs in agreed.items()
    }
    pairs = [
        {"run": other.subject.name, "fingerprint": other.subject.run.fingerprint}
        | {name: of_kind[number].mean for name, of_kind in agreed.items()}
        for number, other in enumerate(others)
    ]
    d_sae, num_latents = seed.subject.sae.d_sae, len(seed.dictionary)
    return Measurement(
        metrics=metrics,
        extra=extra | uppers,
        details=_latents(seed, d_sae),
        more={
            "num_seeds": 1 + len(others),
            "pairs": pairs,
            "chance": {"random": dict(seed.figures.random), "flipped": dict(seed.figures.flipped)},
            "over_seeds": dict(over_seeds),
        },
        counts={"seeds": 1 + len(others), "alive": num_latents, "dead": d_sae - num_latents},
        warnings=_warnings(seed.figures),
    )


def _by_category(values: Mapping[str, Figure]) -> tuple[dict[str, dict[str, Figure]], dict[str, Figure]]:
    """Splits the figures into those by kind of similarity, and the weighted ones."""
    heads: dict[str, list[str]] = {**{kind: [NAMES[kind]] for kind in KINDS}, "latents": list(FOUND)}
    metrics: dict[str, dict[str, Figure]] = {
        category: {f"{key}{against}": values[f"{key}{against}"] for key in keys for against in _AGAINST}
        for category, keys in heads.items()
    }
    shown = {key for group in metrics.values() for key in group}
    return metrics, {key: value for key, value in values.items() if key not in shown}


def _over_seeds(key: str, values: Sequence[float]) -> dict[str, Any]:
    """Returns the mean over all pairs of seeds, with the jackknife's interval over seeds; none without a spread.

    What all seeds have in common is no mean over pairs: its values count nearly the same latents, and have no interval.
    """
    estimate = paired_seeds.mean(values, of_pairs=True)
    has_none = estimate.low == estimate.high or key.startswith(tuple(FOUND))
    interval = None if has_none else [estimate.low, estimate.high]
    return {"mean": estimate.value, "interval": interval}


def _latents(seed: SeedResult, d_sae: int) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [
        {"index": index, "density": 0.0, "least_decoder_cosine": None} for index in range(d_sae)
    ]
    columns = seed.dictionary.index.tolist(), seed.dictionary.density.tolist(), least_cosine(seed.agreements).tolist()
    for index, density, least in zip(*columns, strict=True):
        entries[index] |= {"density": density, "least_decoder_cosine": least}
    return entries


def _warnings(figures: SeedFigures) -> list[str]:
    own, chance = figures.own["pw_mcc"], figures.flipped["pw_mcc"]
    if own - chance > NEAR_CHANCE * chance:
        return []
    return [
        f"PW-MCC {own:.3f} is not {NEAR_CHANCE:.1%} above that of flipped dictionaries ({chance:.3f}): "
        "the dictionaries of these seeds agree no more than by chance"
    ]
