"""What a study decided is kept, and its primary metrics stay those of before its first result."""

from __future__ import annotations

from pathlib import Path

import pytest

from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.study.record import RECORD, Checked, Judged, Record


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    record = Record.read(tmp_path)
    assert not (tmp_path / RECORD).exists()
    record = record.registering({"delta_ce": 0.02}).with_spreads({"delta_ce": 0.01}, 2)
    record = record.with_checked({"new": Checked("a", 10.0, 9.5, 11.0)}).judging("why?", ["base", "new"], [0, 1, 2])
    assert Record.read(tmp_path) == record


def test_an_arm_of_other_settings_was_not_checked(tmp_path: Path) -> None:
    record = Record.read(tmp_path).with_checked({"new": Checked("a", 10.0, 9.5, 11.0)})
    assert record.checked_of("new", "a") == Checked("a", 10.0, 9.5, 11.0)
    assert record.checked_of("new", "b") is None
    assert record.checked_of("old", "a") is None


def test_later_primary_metrics_are_noted_and_change_nothing(tmp_path: Path) -> None:
    first, later = {"delta_ce": 0.02}, {"explained_variance": 0.01}
    record = Record.read(tmp_path).registering(first)
    assert record.registering(first).asked_later == ()
    changed = record.registering(later).registering(later)
    assert (changed.primary_metrics, changed.asked_later) == (first, (later,))
    assert Record.read(tmp_path) == changed.registering(first)


def test_the_first_verdict_stays(tmp_path: Path) -> None:
    record = Record.read(tmp_path).judging("why?", ["a", "b"], [0, 1, 2]).judging("how?", ["a"], [0, 1])
    assert record.judged == Judged("why?", ("a", "b"), (0, 1, 2))


@pytest.mark.parametrize("text", ["{", "[]", '{"checked": 1}', '{"checked": {}}'])
def test_a_damaged_record_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(CorruptDataError, match="is not the record of a study"):
        Record.read(tmp_path)
