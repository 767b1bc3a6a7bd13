"""Whether claims about a variant also hold against its controls: runs with a frozen part, or with random pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from saepipe.evaluate.compare.controlled_claim import ControlledClaim
from saepipe.evaluate.compare.verdict import Figures, Verdict, verdict
from saepipe.evaluate.results.run_results import Row
from saepipe.train.control_kinds import Control, may_be_control, recognised_control


def with_controls(verdicts: Sequence[Verdict], variants: Sequence[Sequence[Row]], figures: Figures) -> list[Verdict]:
    """Adds to each verdict the tests of its claims against the variant's controls, and the findings of H22.

    Args:
        verdicts: on each variant against the baseline.
        variants: runs of each variant, in the same order.
        figures: that the verdicts are about.
    """
    judged, controls = (
        [],
        [
            (of_control, control)
            for of_control, control in zip(verdicts, variants, strict=True)
            if may_be_control(control[0].run.settings)
        ],
    )
    for own, rows in zip(verdicts, variants, strict=True):
        tests = [
            test
            for of_control, control in controls
            if (kind := kind_of_control(control, rows)) is not None
            for test in _tests(kind, own, of_control, verdict(rows, control, figures))
        ]
        findings = [finding for test in tests for finding in test.findings()]
        judged.append(replace(own, controls=tuple(tests), findings=(*own.findings, *findings)))
    return judged


def kind_of_control(control: Sequence[Row], variant: Sequence[Row]) -> Control | None:
    """Returns which control of a variant these runs are, by the first seed that both have; None if they are none."""
    trained = {row.pair: row for row in variant if row.run.trained}
    pairs = ((row, trained[row.pair]) for row in control if row.run.trained and row.pair in trained)
    return next((recognised_control(row.run.settings, own.run.settings) for row, own in pairs), None)


def _tests(kind: Control, own: Verdict, of_control: Verdict, against_control: Verdict) -> Iterator[ControlledClaim]:
    """Yields a test per claim: a primary figure that is significantly better or worse than the baseline's."""
    others = [{change.key: change for change in each.changes} for each in (against_control, of_control)]
    for claim in own.changes:
        if claim.primary and claim.word in ("better", "worse"):
            yield ControlledClaim(kind, of_control.variant, claim, *(changes[claim.key] for changes in others))
