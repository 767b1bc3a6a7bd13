"""Verdict words from paired seeds, and claims that they do not support."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from saepipe.data.folders.health import Finding
from saepipe.evaluate.compare.difference import Change, Word, changes
from saepipe.evaluate.figure_specs import FigureSpec
from saepipe.evaluate.stats.paired_seeds import holm, paired

pytestmark = pytest.mark.quick

SHOWN = {
    "good": FigureSpec("good", "higher"),
    "bad": FigureSpec("bad", "lower"),
    "size": FigureSpec("size"),
    "clean": FigureSpec("clean", of_model=True),
    "similar": FigureSpec("similar", "higher", of_pairs=True),
    "other": FigureSpec("other", "higher", noisy="says a paper"),
}
BASE = (0.50, 0.60, 0.55, 0.58)
UP, NOISE = (0.10, 0.11, 0.09, 0.10), (0.10, -0.08, 0.12, -0.05)


def judge(key: str, moved: Any, base: Any = BASE, primary: dict[str, float] | None = None, **keys: Any) -> Change:
    """The change of one figure that differs from `base` by `moved`, seed by seed."""
    variant = [None if step is None else start + step for start, step in zip(base, moved, strict=True)]
    judged = changes({key: (variant, base)}, primary or {}, SHOWN, lambda _: keys.get("blocked_by", ()))
    return next(change for change in judged if change.key == key)


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
def test_words(key: str, moved: Any, word: Word) -> None:
    change = judge(key, moved)
    assert change.word == word
    assert change.baseline == pytest.approx(np.mean(BASE))
    assert change.variant == pytest.approx(np.mean(BASE) + np.mean(moved))
    mean = change.paired.mean
    assert (mean.low > 0 or mean.high < 0) == (word != "within noise")


def test_a_mean_over_pairs_of_seeds_is_judged_by_the_jackknife() -> None:
    """Differences that establish a change of independent values need not do so here."""
    moved = (0.1, 0.04, 0.12, 0.06)
    plain, over_pairs = judge("good", moved), judge("similar", moved)
    assert (plain.word, over_pairs.word) == ("better", "within noise")
    widths = [change.paired.mean.high - change.paired.mean.low for change in (plain, over_pairs)]
    assert widths[1] == pytest.approx(3 * widths[0])  # 2 (n - 1) / (n - 2) of n = 4
    assert over_pairs.paired.detectable == pytest.approx(3 * plain.paired.detectable)


def test_two_seeds_have_no_verdict_however_far_apart() -> None:
    change = judge("good", (0.1, 0.1001), BASE[:2])
    assert change.paired.p < 0.001
    assert change.word == "too few seeds"


def test_equal_differences_have_no_verdict() -> None:
    change = judge("good", (0.0,) * 4)
    assert (change.word, change.difference) == ("no spread over seeds", 0.0)
    assert change.paired.mean.low is None


def test_a_forbidding_rule_removes_the_verdict() -> None:
    assert judge("good", UP, blocked_by=(Finding("H10", "error", ""),)).word == "no result"


def test_holm_covers_the_primary_metrics_only() -> None:
    sides = {key: ([b + step for b, step in zip(BASE, UP, strict=True)], BASE) for key in ("good", "bad", "size")}
    sides["bad"] = ([b + step for b, step in zip(BASE, NOISE, strict=True)], BASE)
    by_key = {change.key: change for change in changes(sides, {"good": 0.01, "bad": 0.01}, SHOWN)}
    raw = [paired(*sides[key]).p for key in ("good", "bad")]
    assert [by_key[key].p_holm for key in ("good", "bad")] == pytest.approx(holm(raw))
    assert by_key["good"].p == pytest.approx(2 * raw[0])
    assert (by_key["size"].p_holm, by_key["size"].p) == (None, paired(*sides["size"]).p)


def test_holm_can_remove_a_verdict() -> None:
    moved = (0.03, 0.10, 0.05, 0.12)
    assert 0.025 < judge("good", moved).p < 0.05
    assert judge("good", moved).word == "better"
    assert judge("good", moved, primary={"good": 0.2, "bad": 0.2}).word == "within noise"


def test_holm_counts_a_primary_metric_that_was_not_measured() -> None:
    alone = judge("good", UP, primary={"good": 0.01})
    with_absent = judge("good", UP, primary={"good": 0.01, "absent": 0.05})
    assert with_absent.p == pytest.approx(2 * alone.p)
    absent = judge("absent", (), (), primary={"good": 0.01, "absent": 0.05})
    assert (absent.word, absent.p_holm, absent.paired) == ("not measured", 1.0, None)


def test_primary_metrics_come_first_and_figures_of_the_model_are_left_out() -> None:
    sides = dict.fromkeys(SHOWN, (BASE, BASE))
    judged = changes(sides, {"size": 1.0}, SHOWN)
    assert [change.key for change in judged] == ["size", "good", "bad", "similar", "other"]
    assert [change.primary for change in judged] == [True, *[False] * 4]
    assert judged[-1].to_dict()["noisy"] == "says a paper"


def test_remarks_compare_with_the_effect_of_interest() -> None:
    """Four noisy seeds detect effects from about 0.2 on: 0.5, but not 0.05."""
    assert 0.2 < judge("good", NOISE).paired.detectable < 0.3
    assert judge("good", NOISE, primary={"good": 0.05}).remark == "underpowered for 0.05"
    assert judge("good", NOISE, primary={"good": 0.5}).remark == ""
    assert judge("good", NOISE).remark == ""
    assert judge("good", UP, primary={"good": 0.5}).remark == "below the effect of interest (0.5)"
    assert judge("good", UP, primary={"good": 0.05}).remark == ""


def rules(change: Change) -> list[str]:
    return [f"{finding.rule} {finding.severity}" for finding in change.findings]


def test_a_large_difference_within_noise_may_not_be_claimed() -> None:
    moved = (0.20, -0.06, 0.15, 0.02)
    change = judge("good", moved, primary={"good": 0.05})
    assert change.word == "within noise"
    assert rules(change) == ["H17 warning"]
    (finding,) = change.findings
    message = "good differs by +0.0775, which reaches the effect of interest (0.05), but its interval over 4 seeds is ["
    assert message in str(finding)
    assert rules(judge("good", moved, primary={"good": 0.1})) == []  # smaller than the effect of interest
    assert rules(judge("good", moved)) == []  # not a primary metric
    assert rules(judge("good", UP, primary={"good": 0.05})) == []  # significant


def test_few_seeds_and_no_spread_support_no_claim() -> None:
    assert "1 seed is too few" in str(judge("good", (0.3,), BASE[:1], {"good": 0.05}).findings)
    assert "2 seeds are too few" in str(judge("good", (0.3, 0.3001), BASE[:2], {"good": 0.05}).findings)
    assert "all seeds differ by the same amount" in str(judge("good", (0.3,) * 4, (0.5,) * 4, {"good": 0.05}).findings)


def test_seeds_may_not_be_selected() -> None:
    """Without the bad seed the others would support the claim."""
    change = judge("good", (0.10, 0.11, 0.09, None), primary={"good": 0.05})
    assert change.paired.num_seeds == 3
    assert change.word == "no result"
    assert rules(change) == ["H17 error"]
    assert "good has a value for only 3 of 4 paired seeds" in str(change.findings)


def test_a_primary_figure_must_be_measured_and_exist() -> None:
    absent = judge("bad", (), (), primary={"bad": 0.1})
    assert "bad is a primary metric but was not measured: evaluate it" in str(absent.findings)
    misspelt = judge("godo", (), (), primary={"godo": 0.1})
    assert "no metric has a figure of that name; did you mean good?" in str(misspelt.findings)
