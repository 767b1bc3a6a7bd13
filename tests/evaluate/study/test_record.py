"""What a study decided is kept, and its primary metrics stay those of before its first result."""

from __future__ import annotations

from pathlib import Path

import pytest

from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.study.record import RECORD, Checked, Record


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    record = Record.read(tmp_path)
    assert not (tmp_path / RECORD).exists()
    record = record.registering({"delta_ce": 0.02}).with_spreads({"delta_ce": 0.01})
    record = record.with_checked({"new": Checked(10.0, 9.5, 11.0)}).judged([0, 1, 2])
    assert Record.read(tmp_path) == record


def test_later_primary_metrics_are_noted_and_change_nothing(tmp_path: Path) -> None:
    first, later = {"delta_ce": 0.02}, {"explained_variance": 0.01}
    record = Record.read(tmp_path).registering(first)
    assert not record.registering(first).exploratory
    changed = record.registering(later).registering(later)
    assert changed.exploratory
    assert (changed.primary_metrics, changed.asked_later) == (first, (later,))
    assert Record.read(tmp_path) == changed.registering(first)


def test_the_seeds_of_the_first_verdict_stay(tmp_path: Path) -> None:
    record = Record.read(tmp_path).judged([0, 1, 2]).judged([0, 1, 2, 3])
    assert record.judged_seeds == (0, 1, 2)


@pytest.mark.parametrize(
    ("measured", "missed", "trained_to"),
    [(9.6, False, 9.896), (11.0, True, 8.636), (9.0, True, 10.556), (0.0, False, None)],
)
def test_an_arm_must_match_the_baseline(measured: float, missed: bool, trained_to: float | None) -> None:
    """The L0 that it is trained to lies as far, by its ratio, on the other side."""
    checked = Checked(asked=10.0, wanted=9.5, measured=measured)
    assert checked.missed is missed
    if trained_to is not None:
        assert checked.trained_to == pytest.approx(trained_to, abs=1e-3)


@pytest.mark.parametrize("text", ["{", "[]", '{"checked": 1}', '{"checked": {}}'])
def test_a_damaged_record_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(CorruptDataError, match="is not the record of a study"):
        Record.read(tmp_path)
