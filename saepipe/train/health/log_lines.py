"""Rules about penalties and the KL tail, applied to the run's log: H1 inert, H4 thresholds, H5 pairs a gate selects.

They read only `metrics.jsonl`, so a resumed run is judged like one that was never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, median
from typing import Any

from saepipe.data.folders.health import Finding, Severity
from saepipe.train.config import KL_TAIL, RECONSTRUCTION, TrainConfig, labels
from saepipe.train.freeze import frozen_names
from saepipe.train.health_config import HealthConfig
from saepipe.train.penalties.base import Penalty
from saepipe.train.schedule import Controller, Schedule
from saepipe.train.step.sampling import gradients_at

Line = Mapping[str, Any]
"""A line of metrics.jsonl."""


@dataclass(frozen=True)
class Check:
    """A penalty at one line of the log."""

    step: int
    value: float  # before its weight, mean since the previous line
    share: float  # norm of its weighted gradient over the norm of the reconstruction's
    num_dead: int = 0

    @property
    def resting(self) -> bool:
        """True if the penalty is 0 and there is no dead latent, so that one that `may_rest` has nothing to do."""
        return self.value == 0 and self.num_dead == 0

    @property
    def frozen(self) -> bool:
        """True if the penalty has a value and no gradient at all: it is about a frozen part alone."""
        return self.value != 0 and self.share == 0

    def inert(self, limits: HealthConfig) -> bool:
        return self.value == 0 or self.share < limits.inert_share


def check_log(
    config: TrainConfig, num_steps: int, lines: Sequence[Line], limits: HealthConfig, *, ended: bool
) -> list[Finding]:
    """H1, H4 and H5 of every penalty with a weight; before the end, only of those with a suspicious last line."""
    findings: list[Finding] = []
    for label, penalty in zip(labels(config.penalties), config.penalties, strict=True):
        if not (ended or _suspicious(lines[-1], label, limits)):
            continue
        active = [line for line in lines if weight_at(penalty, gradients_at(line), num_steps) > 0]
        checks = [_check(line, label) for line in active]
        if frozen_names(config.freeze):
            findings += check_frozen_part(label, str(config.freeze), checks) if ended else []
            checks = [check for check in checks if not check.frozen]
        findings += check_inert(label, checks, num_steps, limits, ended, may_rest=penalty.may_rest)
        findings += check_selection(label, penalty, _statistics(active, label), limits, ended)
    return findings + (check_tail(config, num_steps, lines, limits, ended) if config.kl_tail.share else [])


def check_frozen_part(label: str, freeze: str, checks: Sequence[Check]) -> list[Finding]:
    """H1: the penalty is about a frozen part alone, so the run is the one without it."""
    if not checks or not all(check.frozen for check in checks):
        return []
    message = (
        f"{label} had a value and no gradient in all {len(checks)} checks, because the {freeze} that it is about is "
        "frozen: the run is the one without it"
    )
    return [Finding("H1", "warning", message, label)]


def check_tail(
    config: TrainConfig, num_steps: int, lines: Sequence[Line], limits: HealthConfig, ended: bool
) -> list[Finding]:
    """H1 of the KL tail, by the lines whose gradients were sampled in it.

    It may dominate: of two terms of one size, as in the paper, KL has by far the larger gradient.
    """
    if not (ended or _suspicious(lines[-1], KL_TAIL, limits)):
        return []
    steps = config.kl_tail.num_steps(num_steps)
    checks = [_check(line, KL_TAIL) for line in lines if gradients_at(line) > num_steps - steps]
    return check_inert(KL_TAIL, checks, steps, limits.model_copy(update={"dominating_share": math.inf}), ended)


def weight_at(penalty: Penalty, step: int, num_steps: int) -> float:
    """Returns the weight at a step (counted from 1): 0 during the warm-up; a controller's counts as its start."""
    if step <= penalty.warmup * num_steps:
        return 0.0
    weight = penalty.settings()["weight"]
    if isinstance(weight, Controller):
        return weight.start
    return weight.at(step - 1, num_steps) if isinstance(weight, Schedule) else float(weight)


def check_inert(
    label: str,
    checks: Sequence[Check],
    num_steps: int,
    limits: HealthConfig,
    ended: bool,
    *,
    may_rest: bool = False,
) -> list[Finding]:
    """H1: the penalty's value is 0, or its gradient is negligible beside the reconstruction's.

    A warning if it was inert in no more than half of the checks. A penalty that `may_rest` is judged only by the checks
    at which it was not resting; it gets no more than a warning, and only if it was inert in more than half of them.
    """
    if may_rest:
        checks = [check for check in checks if not check.resting]
    inert = [check for check in checks if check.inert(limits)]
    longest = max(_streaks(checks, limits), key=len, default=[])
    steps = longest[-1].step - longest[0].step if longest else 0
    long_enough = len(longest) >= limits.inert_checks and steps >= limits.inert_span * num_steps
    if long_enough or (ended and checks and len(inert) == len(checks)):
        mostly = 2 * len(inert) > len(checks)
        if may_rest and not mostly:
            return []
        severity: Severity = "error" if mostly and not may_rest else "warning"
        return [_inert(label, severity, longest, len(checks))]
    return _check_share(label, checks, limits) if ended and checks else []


def _inert(label: str, severity: Severity, streak: Sequence[Check], num_checks: int) -> Finding:
    values: list[float] = [len(streak)]
    if all(check.value == 0 for check in streak):
        observed, advice = "was exactly 0", "check its thresholds, and what it selected (`audit` in health.json)"
    else:
        observed, advice = "had a gradient of at most {:.1g} times the reconstruction's", "raise its weight"
        values.insert(0, max(check.share for check in streak))
    checks = f"in {{:,}} of {num_checks:,} checks"
    steps = f"(steps {streak[0].step:,} to {streak[-1].step:,})"
    pattern = f"{label} {observed} {checks} and had no effect there; {advice}"
    message = f"{label} {observed} {checks} {steps} and had no effect there; {advice}".format(*values)
    return Finding("H1", severity, message, label, tuple(values), pattern)


def _check_share(label: str, checks: Sequence[Check], limits: HealthConfig) -> list[Finding]:
    """H1: the gradients balance at the minimum of the loss, so a share far from 1 means that one term dominates."""
    share = median(check.share for check in checks)
    if limits.weak_share <= share <= limits.dominating_share:
        return []
    weak = share < limits.weak_share
    effect, advice = ("is too weak to matter", "raise") if weak else ("dominates the loss", "lower")
    observed = f"the gradient of {label} is {{:.2g}} times the reconstruction's (median of {len(checks)} checks)"
    return [Finding.measured("H1", "warning", f"{observed}, so it {effect}; {advice} its weight", share, about=label)]


def check_selection(
    label: str, penalty: Penalty, statistics: Mapping[str, Sequence[float]], limits: HealthConfig, ended: bool
) -> list[Finding]:
    """H5: a latent paired with itself, or no pair at all. H4: a gate that no pair passes, or a rho that most do."""
    findings = []
    if (self_share := max(statistics.get("self_share", [0.0]))) > 0:
        pattern = f"{{:.2%}} of the pairs that {label} selects pair a latent with itself; exclude the diagonal"
        findings.append(Finding.measured("H5", "error", pattern, self_share, about=label))
    if ended and max(statistics.get("num_pairs", [1.0])) == 0:
        severity: Severity = "warning" if penalty.may_rest else "error"
        checks = len(statistics["num_pairs"])
        message = f"{label} selected no pair of latents in any of {checks} checks; lower its thresholds"
        findings.append(Finding("H5", severity, message, label))
    if ended and (shares := statistics.get("selected_share")):
        share = fmean(shares[len(shares) // 2 :])
        if share == 0:
            message = f"{label} selects none of its candidate pairs in the second half of the run; lower its threshold"
            findings.append(Finding("H4", "warning", message, label))
        elif share > limits.most_selected and "rho" in penalty.settings():
            pattern = f"{label} selects {{:.0%}} of its candidate pairs, so its gate excludes few; raise rho"
            findings.append(Finding.measured("H4", "warning", pattern, share, about=label))
    return findings


def audit(config: TrainConfig, lines: Sequence[Line]) -> dict[str, dict[str, dict[str, float]]]:
    """Summarises each penalty's and transform's statistics over the run, by label and name."""
    by_label = {label: _statistics(lines, label) for label, _ in config.components()}
    return {
        label: {name: _summary(values) for name, values in statistics.items()}
        for label, statistics in by_label.items()
        if statistics
    }


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"least": min(values), "median": median(values), "most": max(values), "last": values[-1]}


def _suspicious(line: Line, label: str, limits: HealthConfig) -> bool:
    return _check(line, label).inert(limits) or line["statistics"].get(f"{label}/self_share", 0) > 0


def _check(line: Line, label: str) -> Check:
    term, norm = line["terms"][label], line["terms"][RECONSTRUCTION]["gradient_norm"]
    return Check(line["step"], term["value"], term["gradient_norm"] / max(norm, 1e-30), line["dead"])


def _statistics(lines: Sequence[Line], label: str) -> dict[str, list[float]]:
    """Returns the finite values of a component's statistics, by name, in the order of the lines."""
    statistics: dict[str, list[float]] = {}
    for line in lines:
        for key, value in line["statistics"].items():
            owner, _, name = key.partition("/")
            if owner == label and math.isfinite(value):
                statistics.setdefault(name, []).append(value)
    return statistics


def _streaks(checks: Sequence[Check], limits: HealthConfig) -> Iterator[list[Check]]:
    """Yields each uninterrupted series of checks at which the penalty was inert."""
    for inert, group in groupby(checks, key=lambda check: check.inert(limits)):
        if inert:
            yield list(group)
