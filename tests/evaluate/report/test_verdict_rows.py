"""Rows of the page's verdicts."""

from __future__ import annotations

from saepipe.evaluate.report.story import Story
from saepipe.evaluate.report.verdict_rows import HEADINGS, cells_of, changes_of


def test_a_row_has_the_verdict_first_and_what_blocks_it(judged: Story) -> None:
    placebo, ortsae = judged.table.verdicts
    rows = {change.key: cells_of(change) for change in changes_of(placebo, judged.table.short)}
    assert {len(row) for row in rows.values()} == {len(HEADINGS)}
    assert rows["mean_full_absorption_score"][:2] == (
        "full absorption, primary",
        "not comparable: H10 chance-level probes",
    )
    better = cells_of(changes_of(ortsae, judged.table.short)[0])
    assert better[:2] == ("explained variance, primary", "better")
    assert better[2].startswith("+0.0")
