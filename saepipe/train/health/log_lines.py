"""Rules about penalties and the KL tail, applied to the run's log: H1 inert, H4 thresholds, H5 pairs a gate selects.

They read only `metrics.jsonl`, so a resumed run is judged like one that was never stopped. While a run trains, each
line is looked at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median

from saepipe.data.folders.health import Finding, Severity
from saepipe.train.config import KL_TAIL, TrainConfig, labels
from saepipe.train.freeze import Freeze, frozen_names
from saepipe.train.health.inertness import Check, Inertness, Line, check_inert
from saepipe.train.health_config import HealthConfig
from saepipe.train.penalties.base import Penalty
from saepipe.train.schedule import Controller, Schedule
from saepipe.train.step.sampling import gradients_at


class LogWatch:
    """The rules on a log that grows: every line is added once, in order."""

    def __init__(self, config: TrainConfig, num_steps: int, limits: HealthConfig, lines: Sequence[Line] = ()) -> None:
        named = zip(labels(config.penalties), config.penalties, strict=True)
        self._watches: list[PenaltyWatch | TailWatch] = [
            PenaltyWatch(label, penalty, config.freeze, num_steps, limits) for label, penalty in named
        ]
        if config.kl_tail.share:
            self._watches.append(TailWatch(config, num_steps, limits))
        for line in lines:
            self.add(line)

    def add(self, line: Line) -> None:
        for watch in self._watches:
            watch.add(line)

    def findings(self, *, ended: bool) -> list[Finding]:
        """H1, H4 and H5 of every penalty with a weight; before the end, only of those with a suspicious last line."""
        watches = [watch for watch in self._watches if ended or watch.suspicious]
        return [finding for watch in watches for finding in watch.findings(ended)]


class PenaltyWatch:
    """One penalty in a log, at the lines at which it has a weight."""

    def __init__(
        self, label: str, penalty: Penalty, freeze: Freeze | None, num_steps: int, limits: HealthConfig
    ) -> None:
        self._label, self._penalty, self._freeze = label, penalty, freeze
        self._num_steps, self._limits = num_steps, limits
        self._checks = Inertness(limits, may_rest=penalty.may_rest)
        self._statistics: dict[str, list[float]] = {}
        self._num_active = self._num_frozen = 0
        self._self_share = 0.0
        self.suspicious = False
        """whether the last line may have brought a finding"""

    def add(self, line: Line) -> None:
        check, statistics = Check.of(line, self._label), _statistics_at(line, self._label)
        self.suspicious = check.inert(self._limits) or statistics.get("self_share", 0) > 0
        if weight_at(self._penalty, gradients_at(line), self._num_steps) <= 0:
            return
        self._num_active += 1
        self._self_share = max(self._self_share, statistics.get("self_share", 0.0))
        for name, value in statistics.items():
            self._statistics.setdefault(name, []).append(value)
        if frozen_names(self._freeze) and check.frozen:
            self._num_frozen += 1
        else:
            self._checks.add(check)

    def findings(self, ended: bool) -> list[Finding]:
        findings = [*self._check_frozen_part()] if ended else []
        findings += check_inert(self._label, self._checks, self._num_steps, ended)
        findings += check_self_pairs(self._label, self._self_share)
        return findings + (check_selection(self._label, self._penalty, self._statistics, self._limits) if ended else [])

    def _check_frozen_part(self) -> list[Finding]:
        """H1: the penalty is about a frozen part alone, so the run is the one without it."""
        if not self._num_active or self._num_frozen < self._num_active:
            return []
        message = (
            f"{self._label} had a value and no gradient in all {self._num_active} checks, because the {self._freeze} "
            "that it is about is frozen: the run is the one without it"
        )
        return [Finding("H1", "warning", message, self._label)]


class TailWatch:
    """The KL tail in a log, at the lines whose gradients were sampled in it.

    It may dominate: of two terms of one size, as in the paper, KL has by far the larger gradient.
    """

    def __init__(self, config: TrainConfig, num_steps: int, limits: HealthConfig) -> None:
        self._num_steps, self._tail_steps = num_steps, config.kl_tail.num_steps(num_steps)
        self._checks = Inertness(limits.model_copy(update={"dominating_share": math.inf}))
        self.suspicious = False

    def add(self, line: Line) -> None:
        check = Check.of(line, KL_TAIL)
        self.suspicious = check.inert(self._checks.limits)
        if gradients_at(line) > self._num_steps - self._tail_steps:
            self._checks.add(check)

    def findings(self, ended: bool) -> list[Finding]:
        return check_inert(KL_TAIL, self._checks, self._tail_steps, ended)


def check_log(
    config: TrainConfig, num_steps: int, lines: Sequence[Line], limits: HealthConfig, *, ended: bool
) -> list[Finding]:
    """Applies the rules to a log; see `LogWatch.findings`."""
    return LogWatch(config, num_steps, limits, lines).findings(ended=ended)


def weight_at(penalty: Penalty, step: int, num_steps: int) -> float:
    """Returns the weight at a step (counted from 1): 0 during the warm-up; a controller's counts as its start."""
    if step <= penalty.warmup * num_steps:
        return 0.0
    weight = penalty.settings()["weight"]
    if isinstance(weight, Controller):
        return weight.start
    return weight.at(step - 1, num_steps) if isinstance(weight, Schedule) else float(weight)


def check_self_pairs(label: str, self_share: float) -> list[Finding]:
    """H5: a latent is paired with itself, in a share of the pairs of `self_share` at the most."""
    if self_share <= 0:
        return []
    pattern = f"{{:.2%}} of the pairs that {label} selects pair a latent with itself; exclude the diagonal"
    return [Finding.measured("H5", "error", pattern, self_share, about=label)]


def check_selection(
    label: str, penalty: Penalty, statistics: Mapping[str, Sequence[float]], limits: HealthConfig
) -> list[Finding]:
    """H5: no pair at all was selected. H4: a gate that no pair passes, or a rho that most do."""
    findings = []
    if max(statistics.get("num_pairs", [1.0])) == 0:
        severity: Severity = "warning" if penalty.may_rest else "error"
        checks = len(statistics["num_pairs"])
        message = f"{label} selected no pair of latents in any of {checks} checks; lower its thresholds"
        findings.append(Finding("H5", severity, message, label))
    if shares := statistics.get("selected_share"):
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


def _statistics(lines: Sequence[Line], label: str) -> dict[str, list[float]]:
    """Returns the finite values of a component's statistics, by name, in the order of the lines."""
    statistics: dict[str, list[float]] = {}
    for line in lines:
        for name, value in _statistics_at(line, label).items():
            statistics.setdefault(name, []).append(value)
    return statistics


def _statistics_at(line: Line, label: str) -> dict[str, float]:
    """Returns the finite values of a component's statistics at one line, by name."""
    split = ((key.partition("/"), value) for key, value in line["statistics"].items())
    return {name: value for (owner, _, name), value in split if owner == label and math.isfinite(value)}
