"""H2 and H3: runs of different configs that train identically.

Study A's penalty was 0 at every step, and six variants ended with the baseline's loss to the last digit. These rules
find a setting without effect, whatever the cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from saepipe.data.config.base import differences
from saepipe.data.folders.finding_groups import variant_of
from saepipe.data.folders.health import Finding, Severity
from saepipe.train.health_config import HealthConfig


@dataclass(frozen=True)
class Twin:
    """A run, as it is compared with others."""

    name: str
    config: Mapping[str, Any]  # plain data: identity of its config, and its cache
    evidence: Mapping[str, Any]

    @cached_property
    def entries(self) -> np.ndarray:
        """Entries of W_dec, in float64, by which decoders are compared."""
        return np.asarray(self.evidence["W_dec_entries"])


def check_twins(run: Twin, others: Iterable[Twin], limits: HealthConfig) -> list[Finding]:
    """H2 and H3 of a run against others, one finding per rule; runs whose configs train alike are not compared."""
    by_rule: dict[str, list[Finding]] = {}
    for other in others:
        for finding in _check_pair(run, other, limits):
            by_rule.setdefault(finding.rule, []).append(finding)
    return [
        replace(first, message=f"{first.message} (the same holds for {len(more)} more)") if more else first
        for first, *more in by_rule.values()
    ]


def _check_pair(run: Twin, other: Twin, limits: HealthConfig) -> Iterator[Finding]:
    if not (run.evidence and other.evidence):  # one is unfinished, or imported, so its training is unknown
        return
    equal, difference = _equal_losses(run.evidence, other.evidence, limits), _relative_difference(run, other)
    if not equal and difference >= limits.twin_weights:
        return
    differing = _config_differences(_without_zero_weights(other.config), _without_zero_weights(run.config))
    if not differing:
        return
    frozen = run.config.get("freeze") == other.config.get("freeze") == "decoder"
    settings = f"{'; '.join(differing[:3])}{'; ...' if differing[3:] else ''}"
    contrast = f"although the configs differ in {settings}; the difference had no effect"
    if equal:
        expected = frozen and all(line.startswith("penalties") for line in differing)
        contrast += ", as that of a penalty on the rows of a frozen decoder has none" if expected else ""
        severity: Severity = "warning" if expected else "error"
        pattern = f"losses are bit-identical to {variant_of(other.name)}'s, {contrast}"
        yield Finding("H2", severity, f"{equal} bit-identical to {other.name}'s, {contrast}", other.name, (), pattern)
    if frozen:
        return  # they keep the decoder that their seed began with
    if difference < limits.twin_weights:
        message = f"W_dec equals {other.name}'s (relative difference {difference:.1g}), {contrast}"
        pattern = f"W_dec equals {variant_of(other.name)}'s, {contrast}"
        yield Finding("H3", "error", message, other.name, (), pattern)


def _config_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Returns the differing settings; of a component that only one config has, only the name."""
    lines = differences(before, after)
    whole = [line for line in lines if ".name: '(absent)'" in line or (".name: " in line and "-> '(absent)'" in line)]
    parts = tuple(line.partition("name: ")[0] for line in whole)
    return [line for line in lines if line in whole or not line.startswith(parts)]


def _without_zero_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config without the penalties whose weight is 0."""
    return {**config, "penalties": [penalty for penalty in config["penalties"] if penalty["weight"] != 0]}


def _equal_losses(run: Mapping[str, Any], other: Mapping[str, Any], limits: HealthConfig) -> str | None:
    """Returns which reconstruction losses of two runs' evidence are equal bit for bit, in words, or None."""
    ours, theirs = run["reconstruction"], other["reconstruction"]
    common = ours.keys() & theirs.keys()
    if len(common) >= limits.twin_lines and all(ours[step] == theirs[step] for step in common):
        return f"the losses at {len(common)} log lines, up to step {max(map(int, common)):,}, are"
    if run["final_reconstruction"] == other["final_reconstruction"]:
        return f"the final loss ({run['final_reconstruction']!r}) is"
    return None


def _relative_difference(run: Twin, other: Twin) -> float:
    """|W_dec - W_dec'| / |W_dec|, on the entries in two runs' evidence."""
    if run.evidence["W_dec"] == other.evidence["W_dec"]:
        return 0.0
    ours, theirs = run.entries, other.entries
    return float("inf") if ours.shape != theirs.shape else float(np.linalg.norm(ours - theirs) / np.linalg.norm(ours))
