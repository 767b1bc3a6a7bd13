"""Whether runs compare at all: trained and measured on the same data, alike, at one sparsity, by one source."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean

from saepipe.data.config.base import differences
from saepipe.data.folders.health import Finding
from saepipe.evaluate.metrics.base import Shown
from saepipe.evaluate.results.run_results import Row

MATCHED_L0 = 0.05
SAME_MODEL = 1e-6
"""What a figure that the SAE has no part in may differ by between two runs, absolutely or relative to it."""


def check_same_data(rows: Sequence[Row], shown: Mapping[str, Shown]) -> list[Finding]:
    """H16: one hook of one cache, the same held-out tokens, evaluated alike, and the same model by its own figures."""
    findings = []
    if len({(row.run.cache_fingerprint, row.run.hook) for row in rows}) > 1:
        findings.append(_error("they were trained at different hooks, or from different caches"))
    if len({row.heldout for row in rows if row.heldout}) > 1:
        findings.append(_error("the runs were evaluated on different held-out tokens: their figures do not compare"))
    return [*findings, *_check_made_alike(rows), *_check_same_model(rows, shown)]


def _check_made_alike(rows: Sequence[Row]) -> Iterator[Finding]:
    """The metric's version, mode and settings, and the model: each evaluation against the first of its name."""
    first: dict[str, Row] = {}
    told: set[str] = set()
    for row in rows:
        for name, made in row.made.items():
            other = first.setdefault(name, row)
            if name not in told and (apart := differences(other.made[name], made)):
                told.add(name)
                lines = f"{'; '.join(apart[:3])}{'; ...' if apart[3:] else ''}"
                yield _error(f"{name} of {row.label} was not measured as that of {other.label}: {lines}")


def _check_same_model(rows: Sequence[Row], shown: Mapping[str, Shown]) -> Iterator[Finding]:
    for key in (key for key, how in shown.items() if how.of_model):
        known = [(value, row.label) for row in rows if (value := row.value(key)) is not None]
        if not known:
            continue
        (least, one), (most, other) = min(known), max(known)
        if not math.isclose(least, most, rel_tol=SAME_MODEL, abs_tol=SAME_MODEL):
            yield _error(
                f"different eval set: {shown[key].label} ({key}), in which the SAE has no part, is {least:.7g} for "
                f"{one} and {most:.7g} for {other}"
            )


def check_same_parts(rows: Sequence[Row], shown: Mapping[str, Shown]) -> Iterator[Finding]:
    """H16, a warning: means over what can be measured of each SAE, letters of absorption say, are not over the same."""
    alike: dict[tuple[tuple[str, ...], ...], list[str]] = defaultdict(list)
    for key in dict.fromkeys(key for row in rows for key in row.parts):
        alike[tuple(tuple(row.parts[key]) for row in rows if key in row.parts)].append(key)
    for parts, keys in alike.items():
        if len(set(parts)) > 1:
            labels = [row.label for row in rows if keys[0] in row.parts]
            first = dict(zip(reversed(parts), reversed(labels), strict=True))
            each = ", ".join(f"{len(part)} ({' '.join(part) or 'none'}) of {label}" for part, label in first.items())
            names = ", ".join(shown[key].label if key in shown else key for key in keys)
            message = f"{names}: means over what could be measured, and that differs: {each}; their differences are "
            yield Finding("H16", "warning", f"{message}over what both have")


def _error(message: str) -> Finding:
    return Finding("H16", "error", message)


def check_matched_l0(variant: Sequence[Row], baseline: Sequence[Row]) -> list[Finding]:
    """H18: the mean L0 of both is the same within 5 % of the smaller."""
    ours, theirs = (mean_l0(group) for group in (variant, baseline))
    if ours is None or theirs is None or max(ours, theirs) <= (1 + MATCHED_L0) * min(ours, theirs):
        return []
    message = f"L0 is {ours:.3g} against {theirs:.3g}: not at matched sparsity; steer both there with l0_target"
    return [Finding("H18", "warning", message)]


def check_sources(rows: Sequence[Row]) -> Iterator[Finding]:
    """H13: runs of one config, made by different commits."""
    for one, other in combinations(rows, 2):
        if one.run.run_id == other.run.run_id and one.commit != other.commit:
            message = (
                f"{one.label} and {other.label} have one config, and were trained by different commits, "
                f"{one.commit} and {other.commit}: what differs is the code"
            )
            yield Finding("H13", "warning", message)


def mean_l0(rows: Sequence[Row]) -> float | None:
    values = [value for row in rows if (value := row.value("l0")) is not None]
    return fmean(values) if values else None
