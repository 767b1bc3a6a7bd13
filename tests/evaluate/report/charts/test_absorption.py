"""Absorption by letter, with intervals over words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.charts import charts_of, run, table
from helpers.made_stories import write_absorption
from saepipe.evaluate.report.charts import absorption
from saepipe.evaluate.report.story import Story
from saepipe.evaluate.stats.intervals import proportion


def test_letters_have_wilson_intervals_over_words(tmp_path: Path) -> None:
    runs = [
        write_absorption(run(tmp_path, "a", 0), {"b": (2, 10), "c": "too few words"}),
        write_absorption(run(tmp_path, "a", 1), {"b": (4, 10), "c": (0, 5)}),
        write_absorption(run(tmp_path, "d", weight=2.0), {"b": (0, 10), "c": "too few words"}),
    ]
    section = absorption.section(Story.read(runs))
    both, other, half, unmeasured = table(charts_of(section)["absorption-full"])
    expected = proportion(np.arange(10) < 3)  # the seeds share the words, so ten, not twenty
    assert (both["variant"], both["letter"]) == ("a", "b")
    assert (both["full absorption"], both["low"], both["high"]) == pytest.approx(
        (0.3, expected.low, expected.high), abs=1e-5
    )
    assert (other["variant"], other["full absorption"], other["low"]) == ("d", 0.0, 0.0)
    assert half["full absorption"] == 0.0  # from the one seed that has a value
    assert (unmeasured["letter"], unmeasured["full absorption"], unmeasured["reason"]) == ("c", None, "too few words")
    fraction = table(charts_of(section)["absorption-fraction"])[0]
    assert fraction["absorption fraction"] == pytest.approx(0.15)
    assert fraction["low"] < 0.15 < fraction["high"]
    unmeasured_letters = "Letters on which absorption cannot be measured: a/seed-0 1 of 2, d/seed-0 1 of 2; "
    assert section.absent == (f"{unmeasured_letters}the tables give the reasons.",)


def test_letters_that_no_run_can_measure_are_not_shown(tmp_path: Path) -> None:
    runs = [write_absorption(run(tmp_path, "a"), {"b": "too few words"}), run(tmp_path, "b", weight=2.0)]
    section = absorption.section(Story.read(runs))
    assert section.charts == ()
    assert section.absent[0] == "Absorption was not measured for b/seed-0."
