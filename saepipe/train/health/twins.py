"""H2 and H3: two runs of different configs that are one and the same.

Study A's penalty was 0 at every step, and six variants ended with the baseline's loss to the last digit. Whatever
makes a setting do nothing, this is how it shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from saepipe.data.config.base import differences
from saepipe.data.folders.health import Finding
from saepipe.train.config import TrainConfig
from saepipe.train.health.log_lines import Line, weight_at
from saepipe.train.health_config import HealthConfig
from saepipe.train.step.loss import RECONSTRUCTION

NUM_LINES, NUM_ENTRIES = 32, 256
"""How much of a run is kept to compare others with: the last log lines, and entries of W_dec evenly apart."""


@dataclass(frozen=True)
class Twin:
    """A run as others are compared with it."""

    name: str
    config: Mapping[str, Any]  # plain data: the identity of its config, and its cache
    evidence: Mapping[str, Any]


def evidence(config: TrainConfig, num_steps: int, lines: Sequence[Line], W_dec: Tensor) -> dict[str, Any]:
    """What is kept of a run: the reconstruction while all penalties have their weight, its last value, and W_dec."""
    settled = [
        line for line in lines if all(weight_at(penalty, line["step"], num_steps) > 0 for penalty in on(config))
    ][-NUM_LINES:]
    weights = W_dec.detach().float().cpu().contiguous().numpy()
    return {
        "reconstruction": {str(line["step"]): line["terms"][RECONSTRUCTION]["value"] for line in settled},
        "final_reconstruction": lines[-1]["terms"][RECONSTRUCTION]["value"],
        "W_dec": hashlib.sha256(weights.tobytes()).hexdigest(),
        "W_dec_entries": weights.reshape(-1)[:: max(1, weights.size // NUM_ENTRIES)].tolist(),
    }


def on(config: TrainConfig) -> list[Any]:
    """The penalties that have a weight."""
    return [penalty for penalty in config.penalties if penalty.weight != 0]


def check_twins(run: Twin, others: Iterable[Twin], limits: HealthConfig) -> list[Finding]:
    """H2 and H3 of a run against others, one finding a rule; nothing of those whose configs train alike."""
    found: dict[str, list[Finding]] = {}
    for other in others:
        for finding in _check_pair(run, other, limits):
            found.setdefault(finding.rule, []).append(finding)
    return [
        replace(first, message=f"{first.message} (and so with {len(more)} more)") if more else first
        for first, *more in found.values()
    ]


def _check_pair(run: Twin, other: Twin, limits: HealthConfig) -> Iterator[Finding]:
    if not (run.evidence and other.evidence):  # unfinished, or imported: nothing is known of how it was trained
        return
    apart = _apart(_trained(other.config), _trained(run.config))
    if not apart:
        return
    setting = f"though they differ in {'; '.join(apart[:3])}{'; ...' if apart[3:] else ''}"
    if same := _same_losses(run.evidence, other.evidence, limits):
        message = f"{same} to those of {other.name}, {setting}: what differs did nothing"
        yield Finding("H2", "error", message, other.name)
    distance = _distance(run.evidence, other.evidence)
    if distance < limits.twin_weights:
        message = f"W_dec is that of {other.name} (relative difference {distance:.1g}), {setting}"
        yield Finding("H3", "error", message, other.name)


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """How two configs differ; of a component that only one of them has, its name alone."""
    lines = differences(one, other)
    whole = [line for line in lines if ".name: '(absent)'" in line or (".name: " in line and "-> '(absent)'" in line)]
    parts = tuple(line.partition("name: ")[0] for line in whole)
    return [line for line in lines if line in whole or not line.startswith(parts)]


def _trained(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config less the penalties that its own weight of 0 puts out."""
    return {**config, "penalties": [penalty for penalty in config["penalties"] if penalty["weight"] != 0]}


def _same_losses(one: Mapping[str, Any], other: Mapping[str, Any], limits: HealthConfig) -> str | None:
    """How their reconstruction losses are equal bit by bit."""
    ours, theirs = one["reconstruction"], other["reconstruction"]
    common = ours.keys() & theirs.keys()
    if len(common) >= limits.twin_lines and all(ours[step] == theirs[step] for step in common):
        return f"the losses at {len(common)} log lines, up to {max(map(int, common)):,} steps, are bit-identical"
    if one["final_reconstruction"] == other["final_reconstruction"]:
        return f"the final loss ({one['final_reconstruction']!r}) is bit-identical"
    return None


def _distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """|W_dec - W_dec'| / |W_dec|, on a sample of entries."""
    ours, theirs = (np.asarray(side["W_dec_entries"]) for side in (one, other))
    if one["W_dec"] == other["W_dec"]:
        return 0.0
    return float("inf") if ours.shape != theirs.shape else float(np.linalg.norm(ours - theirs) / np.linalg.norm(ours))
