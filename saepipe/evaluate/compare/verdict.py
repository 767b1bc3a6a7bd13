"""Verdict on a variant against its baseline: first the rules that forbid one, then what the seeds support."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from saepipe.data.folders.health import Finding, errors
from saepipe.data.folders.health_rules import RULES
from saepipe.evaluate.compare.checks import CORE, check_matched_l0, check_same_data
from saepipe.evaluate.compare.controlled_claim import ControlledClaim
from saepipe.evaluate.compare.difference import SEEDS_FOR_A_VERDICT, Change, Sides, changes
from saepipe.evaluate.compare.proxy_l0 import ProxyL0, check_proxy_l0
from saepipe.evaluate.compare.sweeps import AtCommonL0
from saepipe.evaluate.figure_specs import FigureSpec
from saepipe.evaluate.results.run_results import Pair, Row, comparable_values
from saepipe.train.health.twins import check_twins


@dataclass(frozen=True)
class Figures:
    """Figures that every verdict of a table is about."""

    primary: Mapping[str, float]
    """Smallest effect of interest of each primary metric, by figure key."""
    shown: Mapping[str, FigureSpec]
    """Every figure that a metric knows, by key."""


@dataclass(frozen=True)
class Verdict:
    """Verdict on one variant or sweep, over all its seeds."""

    variant: str
    baseline: str
    run_errors: tuple[Finding, ...]
    """Errors in the health or the evaluations of single runs."""
    comparison_findings: tuple[Finding, ...]
    """Findings between the runs."""
    num_seeds: int
    """Number of pairs: seeds that both sides have."""
    changes: tuple[Change, ...] = ()
    findings: tuple[Finding, ...] = ()
    """Findings of H17, H22 and H23: claims that the runs do not support, and arms far from a sweep's proxy of L0."""
    l0: float | None = None
    """Common L0 at which two sweeps were read; None for a variant."""
    controls: tuple[ControlledClaim, ...] = ()
    """Tests of the claims in `changes` against the variant's controls, if these are among the compared runs."""

    @property
    def forbidden_by(self) -> tuple[Finding, ...]:
        """Findings that forbid a verdict on every figure."""
        return tuple(finding for finding in self._obstacles if _concerns_all(finding))

    @property
    def blocked(self) -> dict[str, tuple[Finding, ...]]:
        """Findings that forbid a verdict on the figures of one evaluation, by the evaluation's name."""
        names = dict.fromkeys(finding.evaluation for finding in self._obstacles if not _concerns_all(finding))
        return {name: tuple(f for f in self._obstacles if f.evaluation == name) for name in names}

    @property
    def _obstacles(self) -> tuple[Finding, ...]:
        return (*self.run_errors, *self.comparison_findings)

    @property
    def may_judge(self) -> bool:
        """True if no rule forbids a verdict on every figure and there are enough seeds for one."""
        return not self.forbidden_by and self.num_seeds >= SEEDS_FOR_A_VERDICT

    @property
    def pair(self) -> str:
        at = f" at L0 {self.l0:.3g}" if self.l0 is not None else ""
        return f"{self.variant} against {self.baseline}{at}"

    def __str__(self) -> str:
        if self.forbidden_by:
            between = [finding for finding in self.comparison_findings if _concerns_all(finding)]
            details = "".join(f"; {finding.rule}: {finding.message}" for finding in between)
            return f"{self.pair}: NO RESULT, whatever the figures show: {_titles(self.forbidden_by)}{details}"
        sound = f"{self.pair}: no health rule prevents comparing these runs"
        for name, findings in self.blocked.items():
            sound += f", except in {name}: {_titles(findings)}"
        if self.num_seeds == 0:
            return f"{sound}, but they have no seed in common"
        if self.num_seeds < SEEDS_FOR_A_VERDICT:
            seeds = "1 seed is" if self.num_seeds == 1 else f"{self.num_seeds} seeds are"
            return f"{sound}, but {seeds} too few to rule out chance"
        return f"{sound} ({self.num_seeds} seeds)"

    def to_dict(self) -> dict[str, Any]:
        return {
            "variant": self.variant,
            "baseline": self.baseline,
            "l0": self.l0,
            "num_seeds": self.num_seeds,
            "forbidden_by": [asdict(finding) for finding in self.forbidden_by],
            "blocked": {name: [asdict(finding) for finding in found] for name, found in self.blocked.items()},
            "findings": [asdict(finding) for finding in self.findings],
            "text": str(self),
            "changes": [change.to_dict() for change in self.changes],
            "controls": [test.to_dict() for test in self.controls],
        }


def _concerns_all(finding: Finding) -> bool:
    return finding.evaluation in ("", CORE)


def _titles(findings: Iterable[Finding]) -> str:
    """Returns the rules of the findings, each once: `H9 degenerate SAE, H10 chance-level probes`."""
    rules = sorted({finding.rule for finding in findings}, key=lambda rule: int(rule[1:]))
    return ", ".join(f"{rule} {RULES[rule].title}" for rule in rules)


def verdict(
    variant: Sequence[Row], baseline: Sequence[Row], figures: Figures, proxies: Sequence[ProxyL0] = ()
) -> Verdict:
    """Compares the seeds of a variant with the same seeds of the baseline; `proxies` are of the sweeps around them."""
    ours, theirs = _by_seed(variant), _by_seed(baseline)
    common = [seed for seed in ours if seed in theirs]
    keys = dict.fromkeys(key for row in variant for key in row.cells)
    pairs = {key: [comparable_values(ours[seed], theirs[seed], key) for seed in common] for key in keys}
    sides: dict[str, Sides] = {key: ([a for a, _ in values], [b for _, b in values]) for key, values in pairs.items()}
    forbidden = [*_check_comparison(variant, baseline, figures.shown), *check_matched_l0(variant, baseline)]
    used = {side[seed].label for side in (ours, theirs) for seed in common}
    warnings = [*_check_unpaired((*variant, *baseline), used)]
    if not forbidden:
        warnings += check_proxy_l0(variant, baseline, proxies)
    return _verdict((variant, baseline), forbidden, sides, len(common), figures, warnings)


def verdict_on_sweep(
    sweep: Sequence[Sequence[Row]],
    baseline: Sequence[Sequence[Row]],
    common: AtCommonL0,
    figures: Figures,
    proxies: Sequence[ProxyL0] = (),
) -> Verdict:
    """Compares two sweeps, each a list of variants, at their common L0."""
    ours, theirs = ([row for variant in side for row in variant] for side in (sweep, baseline))
    forbidden = _check_comparison(ours, theirs, figures.shown)
    warnings = [] if forbidden else check_proxy_l0(ours, theirs, proxies, common.l0)
    judged = _verdict((ours, theirs), forbidden, common.sides, common.num_seeds, figures, warnings)
    names = [f"sweep of {side[0][0].variant} ({len(side)} variants)" for side in (sweep, baseline)]
    return replace(judged, variant=names[0], baseline=names[1], l0=common.l0)


def _verdict(
    rows: tuple[Sequence[Row], Sequence[Row]],
    comparison_findings: Sequence[Finding],
    sides: Mapping[str, Sides],
    num_seeds: int,
    figures: Figures,
    warnings: Sequence[Finding],
) -> Verdict:
    run_errors = [
        replace(finding, message=f"{row.label}: {finding.message}")
        for row in (*rows[1], *rows[0])
        for finding in errors(row.findings)
    ]
    repeated = {finding.rule for finding in run_errors} & {"H2", "H3"}
    comparison_findings = [finding for finding in comparison_findings if finding.rule not in repeated]
    evaluations = {key: name for row in (*rows[1], *rows[0]) for key, name in row.evaluations.items()}

    def blocked_by(key: str) -> tuple[Finding, ...]:
        found = (*run_errors, *comparison_findings)
        return tuple(f for f in found if _concerns_all(f) or f.evaluation == evaluations.get(key))

    judged = changes(sides, figures.primary, figures.shown, blocked_by)
    claims = [finding for change in judged if change.primary and not change.blocked_by for finding in change.findings]
    return Verdict(
        variant=rows[0][0].variant,
        baseline=rows[1][0].variant,
        run_errors=tuple(run_errors),
        comparison_findings=tuple(comparison_findings),
        num_seeds=num_seeds,
        changes=judged,
        findings=(*warnings, *claims),
    )


def _check_comparison(
    variant: Sequence[Row], baseline: Sequence[Row], shown: Mapping[str, FigureSpec]
) -> list[Finding]:
    """Checks H16, and H2 and H3 again; the latter not for imported runs, whose training is unknown."""
    findings = check_same_data((*baseline, *variant), shown)
    trained = [row.twin for row in baseline if row.run.trained]
    for row in variant:
        if row.run.trained:
            findings += errors(check_twins(row.twin, trained, row.run.trained.health))
    return findings


def _by_seed(rows: Sequence[Row]) -> dict[Pair, Row]:
    """Returns the first run of each seed: a run that was made twice is not a second seed."""
    first: dict[Pair, Row] = {}
    for row in rows:
        first.setdefault(row.pair, row)
    return first


def _check_unpaired(rows: Sequence[Row], used: Collection[str]) -> Iterator[Finding]:
    """Warns (H17) about runs that are in no pair, if there are pairs."""
    unpaired = [row.label for row in rows if row.label not in used]
    if used and unpaired:
        message = f"{', '.join(unpaired)}: left out, because the other side has no run with the same seed"
        yield Finding("H17", "warning", message)
