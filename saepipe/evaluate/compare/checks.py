"""Checks that runs are comparable: same data, same evaluation settings, matched L0, same source code."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, combinations
from statistics import fmean

from saepipe.data.config.base import differences
from saepipe.data.folders.health import Finding
from saepipe.evaluate.figure_specs import FigureSpec
from saepipe.evaluate.results.run_results import Row

CORE = "core"
"""Name of the evaluation that measures L0. Since sparsity must match for any figure, all verdicts rest on it."""
MATCHED_L0 = 0.05
"""Largest difference between two L0s, relative to the smaller, at which sparsity is matched."""
SAME_MODEL = 1e-6
"""Largest difference, absolute or relative, between two runs in a figure that depends on the model alone."""


def check_same_data(rows: Sequence[Row], shown: Mapping[str, FigureSpec]) -> list[Finding]:
    """Checks H16: same cache and hooks, same held-out tokens, same evaluation settings, same figures of the model."""
    findings = []
    if len({(row.run.cache_fingerprint, row.run.hook, row.run.target) for row in rows}) > 1:
        findings.append(_error("the runs were trained at different hooks or from different caches"))
    if len({row.heldout for row in rows if row.heldout}) > 1:
        message = "the runs were evaluated on different held-out tokens: figures are not comparable"
        findings.append(_error(message, CORE))
    return [*findings, *_check_protocols(rows), *_check_same_model(rows, shown)]


def _check_protocols(rows: Sequence[Row]) -> Iterator[Finding]:
    """Compares the protocol of each evaluation with that of the first run that has this evaluation."""
    first: dict[str, Row] = {}
    reported: set[str] = set()
    for row in rows:
        for name, protocol in row.protocols.items():
            reference = first.setdefault(name, row)
            if name not in reported and (changes := differences(reference.protocols[name], protocol)):
                reported.add(name)
                details = f"{'; '.join(changes[:3])}{'; ...' if changes[3:] else ''}"
                message = f"{name} was measured differently for {reference.label} and {row.label}: {details}"
                yield _error(message, name)


def _check_same_model(rows: Sequence[Row], shown: Mapping[str, FigureSpec]) -> Iterator[Finding]:
    for key in (key for key, how in shown.items() if how.of_model):
        values = [(value, row.label) for row in rows if (value := row.value(key)) is not None]
        if not values:
            continue
        (least, least_label), (most, most_label) = min(values), max(values)
        if not math.isclose(least, most, rel_tol=SAME_MODEL, abs_tol=SAME_MODEL):
            yield _error(
                f"different evaluation data: {shown[key].label} ({key}), which does not depend on the SAE, is "
                f"{least:.7g} for {least_label} and {most:.7g} for {most_label}",
                next(row.evaluations[key] for row in rows if row.value(key) is not None),
            )


def check_parts(rows: Sequence[Row], shown: Mapping[str, FigureSpec]) -> Iterator[Finding]:
    """Warns (H16) if a mean over measurable parts, such as absorption letters, has different parts in some runs."""
    keys_by_parts: dict[tuple[tuple[str, ...], ...], list[str]] = defaultdict(list)
    for key in dict.fromkeys(key for row in rows for key in row.parts):
        keys_by_parts[tuple(tuple(row.parts[key]) for row in rows if key in row.parts)].append(key)
    for parts, keys in keys_by_parts.items():
        if len(set(parts)) > 1:
            least, most = min(map(len, parts)), max(map(len, parts))
            common = [part for part in parts[0] if all(part in others for others in parts)]
            names = ", ".join(shown[key].label if key in shown else key for key in keys)
            counted = f"{least} to {most} measurable parts per run, {len(common)} in all runs"
            listed = f" ({' '.join(common)})" if common else ""
            yield Finding("H16", "warning", f"{names}: means over {counted}{listed}")


def _error(message: str, evaluation: str = "") -> Finding:
    return Finding("H16", "error", message, evaluation=evaluation)


def check_matched_l0(variant: Sequence[Row], baseline: Sequence[Row]) -> list[Finding]:
    """Checks H18: the mean L0s of variant and baseline match."""
    ours, theirs = mean_l0(variant), mean_l0(baseline)
    message = unmatched_l0(ours, theirs) if ours is not None and theirs is not None else None
    return [Finding("H18", "warning", message)] if message else []


def unmatched_l0(first: float, second: float) -> str | None:
    """Returns the message of H18 about two L0s; None if they differ by at most 5 % of the smaller."""
    if max(first, second) <= (1 + MATCHED_L0) * min(first, second):
        return None
    return f"L0 is {first:.3g} against {second:.3g}: sparsity is not matched; train at the same L0 with l0_target"


def check_sources(rows: Sequence[Row]) -> Iterator[Finding]:
    """Warns (H13) about runs with the same config that were trained by different commits."""
    by_config: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_config[row.run.run_id].append(row)
    for row, other in chain.from_iterable(combinations(group, 2) for group in by_config.values()):
        if row.commit != other.commit:
            message = (
                f"{row.label} and {other.label} have the same config but were trained by different commits, "
                f"{row.commit} and {other.commit}: only the code differs"
            )
            yield Finding("H13", "warning", message)


def mean_l0(rows: Sequence[Row]) -> float | None:
    values = [value for row in rows if (value := row.value("l0")) is not None]
    return fmean(values) if values else None
