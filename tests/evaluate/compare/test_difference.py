"""Which word a figure's seeds carry, and what may not be claimed of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from saepipe.evaluate.compare.difference import Change, changes
from saepipe.evaluate.metrics.base import Shown
from saepipe.evaluate.stats.paired_seeds import holm, paired

SHOWN = {
    "good": Shown("good", "higher"),
    "bad": Shown("bad", "lower"),
    "size": Shown("size"),
    "clean": Shown("clean", of_model=True),
    "other": Shown("other", "higher", noisy="says a paper"),
}
BASE = (0.50, 0.60, 0.55, 0.58)
UP, NOISE = (0.10, 0.11, 0.09, 0.10), (0.10, -0.08, 0.12, -0.05)


def one(key: str, moved: Any, base: Any = BASE, primary: dict[str, float] | None = None, **keys: Any) -> Change:
    """The change of one figure that differs from `base` by `moved`, seed by seed."""
    moved = [None if step is None else start + step for start, step in zip(base, moved, strict=True)]
    found = changes({key: (moved, base)}, primary or {}, SHOWN, forbidden=keys.get("forbidden", False))
    return next(change for change in found if change.key == key)


@pytest.mark.parametrize(
    ("key", "moved", "word"),
    [
        ("good", UP, "better"),
        ("good", -np.array(UP), "worse"),
        ("bad", UP, "worse"),
        ("bad", -np.array(UP), "better"),
        ("size", UP, "higher"),
        ("size", -np.array(UP), "lower"),
        ("good", NOISE, "within noise"),
    ],
)
def test_words(key: str, moved: Any, word: str) -> None:
    change = one(key, moved)
    assert change.word == word
    assert change.baseline == pytest.approx(np.mean(BASE))
    assert change.variant == pytest.approx(np.mean(BASE) + np.mean(moved))
    mean = change.paired.mean
    assert (mean.low > 0 or mean.high < 0) == (word != "within noise")


def test_two_seeds_have_no_word_however_far_apart() -> None:
    change = one("good", (0.1, 0.1001), BASE[:2])
    assert change.paired.p < 0.001
    assert change.word == "too few seeds"


def test_equal_differences_have_no_word() -> None:
    change = one("good", (0.0,) * 4)
    assert (change.word, change.difference) == ("no spread over seeds", 0.0)
    assert change.paired.mean.low is None


def test_a_rule_that_forbids_takes_the_word_away() -> None:
    assert one("good", UP, forbidden=True).word == "no result"


def test_holm_runs_over_the_primary_ones_alone() -> None:
    sides = {key: ([b + step for b, step in zip(BASE, UP, strict=True)], BASE) for key in ("good", "bad", "size")}
    sides["bad"] = ([b + step for b, step in zip(BASE, NOISE, strict=True)], BASE)
    found = {change.key: change for change in changes(sides, {"good": 0.01, "bad": 0.01}, SHOWN, forbidden=False)}
    raw = [paired(*sides[key]).p for key in ("good", "bad")]
    assert [found[key].p_holm for key in ("good", "bad")] == pytest.approx(holm(raw))
    assert found["good"].p == pytest.approx(2 * raw[0])
    assert (found["size"].p_holm, found["size"].p) == (None, paired(*sides["size"]).p)


def test_holm_can_take_a_word_back() -> None:
    moved = (0.03, 0.10, 0.05, 0.12)
    assert 0.025 < one("good", moved).p < 0.05
    assert one("good", moved).word == "better"
    assert one("good", moved, primary={"good": 0.2, "bad": 0.2}).word == "within noise"


def test_a_primary_figure_that_was_not_measured_keeps_its_place_in_holms_family() -> None:
    alone = one("good", UP, primary={"good": 0.01})
    with_absent = one("good", UP, primary={"good": 0.01, "absent": 0.05})
    assert with_absent.p == pytest.approx(2 * alone.p)
    absent = one("absent", (), (), primary={"good": 0.01, "absent": 0.05})
    assert (absent.word, absent.p_holm, absent.paired) == ("not measured", 1.0, None)


def test_primary_ones_come_first_and_the_models_own_are_left_out() -> None:
    sides = dict.fromkeys(SHOWN, (BASE, BASE))
    found = changes(sides, {"size": 1.0}, SHOWN, forbidden=False)
    assert [change.key for change in found] == ["size", "good", "bad", "other"]
    assert [change.primary for change in found] == [True, False, False, False]
    assert found[-1].to_dict()["noisy"] == "says a paper"


def test_what_a_study_could_not_have_shown() -> None:
    """Four noisy seeds see 0.2 and more: 0.05 is out of their reach, 0.5 is not."""
    assert 0.2 < one("good", NOISE).paired.detectable < 0.3
    assert one("good", NOISE, primary={"good": 0.05}).remark == "could not have shown 0.05"
    assert one("good", NOISE, primary={"good": 0.5}).remark == ""
    assert one("good", NOISE).remark == ""
    assert one("good", UP, primary={"good": 0.5}).remark == "below the 0.5 of interest"
    assert one("good", UP, primary={"good": 0.05}).remark == ""


def rules(change: Change) -> list[str]:
    return [f"{finding.rule} {finding.severity}" for finding in change.findings]


def test_a_large_difference_within_noise_may_not_be_claimed() -> None:
    moved = (0.20, -0.06, 0.15, 0.02)
    change = one("good", moved, primary={"good": 0.05})
    assert change.word == "within noise"
    assert rules(change) == ["H17 warning"]
    (finding,) = change.findings
    assert "good differs by +0.0775, no less than the 0.05 of interest, but its interval over 4 seeds is [" in str(
        finding
    )
    assert rules(one("good", moved, primary={"good": 0.1})) == []  # smaller than anybody would claim
    assert rules(one("good", moved)) == []  # nothing was declared of it
    assert rules(one("good", UP, primary={"good": 0.05})) == []  # carried


def test_few_seeds_and_no_spread_carry_nothing() -> None:
    assert "1 seed is too few" in str(one("good", (0.3,), BASE[:1], {"good": 0.05}).findings)
    assert "2 seeds are too few" in str(one("good", (0.3, 0.3001), BASE[:2], {"good": 0.05}).findings)
    assert "all seeds differ alike" in str(one("good", (0.3,) * 4, (0.5,) * 4, {"good": 0.05}).findings)


def test_seeds_may_not_be_picked() -> None:
    """With the two bad seeds gone the rest would carry it."""
    change = one("good", (0.10, 0.11, 0.09, None), primary={"good": 0.05})
    assert change.paired.num_seeds == 3
    assert change.word == "no result"
    assert rules(change) == ["H17 error"]
    assert "good has a number for 3 of 4 paired seeds" in str(change.findings)


def test_a_primary_figure_must_be_measured_and_exist() -> None:
    absent = one("bad", (), (), primary={"bad": 0.1})
    assert "bad was declared primary, and was not measured: evaluate it" in str(absent.findings)
    misspelt = one("godo", (), (), primary={"godo": 0.1})
    assert "no metric has a figure of that name; did you mean good?" in str(misspelt.findings)
