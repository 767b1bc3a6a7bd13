"""H1: whether a penalty acts, by its gradients at the lines of a log; each line is looked at once, as it comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Self

from saepipe.data.folders.health import Finding, Severity
from saepipe.train.config import RECONSTRUCTION
from saepipe.train.health_config import HealthConfig

Line = Mapping[str, Any]
"""A line of metrics.jsonl."""


@dataclass(frozen=True)
class Check:
    """A penalty at one line of the log."""

    step: int
    value: float  # before its weight, mean since the previous line
    share: float  # norm of its weighted gradient over the norm of the reconstruction's
    num_dead: int = 0

    @classmethod
    def of(cls, line: Line, label: str) -> Self:
        term, norm = line["terms"][label], line["terms"][RECONSTRUCTION]["gradient_norm"]
        return cls(line["step"], term["value"], term["gradient_norm"] / max(norm, 1e-30), line["dead"])

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


@dataclass(frozen=True)
class Streak:
    """Checks in a row at which a penalty was inert."""

    first: int
    last: int
    """steps"""
    num: int
    share: float
    """the largest"""
    zero: bool
    """whether the penalty was 0 at all of them"""

    def with_next(self, check: Check) -> Self:
        zero = self.zero and check.value == 0
        return replace(self, last=check.step, num=self.num + 1, share=max(self.share, check.share), zero=zero)


class Inertness:
    """The checks of a penalty so far. Those at which one that `may_rest` was resting do not count."""

    def __init__(self, limits: HealthConfig, *, may_rest: bool = False) -> None:
        self.limits, self.may_rest = limits, may_rest
        self.shares: list[float] = []
        self.num_inert = 0
        self.longest: Streak | None = None
        """the first of the longest"""
        self._current: Streak | None = None

    def add(self, check: Check) -> None:
        if self.may_rest and check.resting:
            return
        self.shares.append(check.share)
        if not check.inert(self.limits):
            self._current = None
            return
        self.num_inert += 1
        begun = self._current or Streak(check.step, check.step, 0, 0.0, zero=True)
        self._current = begun.with_next(check)
        if self.longest is None or self._current.num > self.longest.num:
            self.longest = self._current


def check_inert(label: str, checks: Inertness, num_steps: int, ended: bool) -> list[Finding]:
    """H1: the penalty's value is 0, or its gradient is negligible beside the reconstruction's.

    A warning if it was inert in no more than half of the checks. A penalty that `may_rest` gets no more than a warning,
    and only if it was inert in more than half of them.
    """
    limits, longest, num = checks.limits, checks.longest, len(checks.shares)
    if longest is not None:
        long_enough = (
            longest.num >= limits.inert_checks and longest.last - longest.first >= limits.inert_span * num_steps
        )
        if long_enough or (ended and checks.num_inert == num):
            mostly = 2 * checks.num_inert > num
            if checks.may_rest and not mostly:
                return []
            severity: Severity = "error" if mostly and not checks.may_rest else "warning"
            return [_inert(label, severity, longest, num)]
    return _check_share(label, checks.shares, limits) if ended and num else []


def _inert(label: str, severity: Severity, streak: Streak, num_checks: int) -> Finding:
    values: list[float] = [streak.num]
    if streak.zero:
        observed, advice = "was exactly 0", "check its thresholds, and what it selected (`audit` in health.json)"
    else:
        observed, advice = "had a gradient of at most {:.1g} times the reconstruction's", "raise its weight"
        values.insert(0, streak.share)
    checks = f"in {{:,}} of {num_checks:,} checks"
    steps = f"(steps {streak.first:,} to {streak.last:,})"
    pattern = f"{label} {observed} {checks} and had no effect there; {advice}"
    message = f"{label} {observed} {checks} {steps} and had no effect there; {advice}".format(*values)
    return Finding("H1", severity, message, label, tuple(values), pattern)


def _check_share(label: str, shares: list[float], limits: HealthConfig) -> list[Finding]:
    """H1: the gradients balance at the minimum of the loss, so a share far from 1 means that one term dominates."""
    share = median(shares)
    if limits.weak_share <= share <= limits.dominating_share:
        return []
    weak = share < limits.weak_share
    effect, advice = ("is too weak to matter", "raise") if weak else ("dominates the loss", "lower")
    observed = f"the gradient of {label} is {{:.2g}} times the reconstruction's (median of {len(shares)} checks)"
    return [Finding.measured("H1", "warning", f"{observed}, so it {effect}; {advice} its weight", share, about=label)]
