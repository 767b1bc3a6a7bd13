"""Claims tested against controls: one that survives, one that a control matches, and all that no test can tell."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import pytest
from scipy import stats

from helpers.made_results import write_core, write_run
from saepipe.data.folders.health import Finding, Health
from saepipe.evaluate.compare import against_controls
from saepipe.evaluate.compare.table import Table, compare
from saepipe.evaluate.compare.verdict import Verdict
from saepipe.evaluate.report.conclusions import conclusions
from saepipe.evaluate.report.run import report
from saepipe.evaluate.report.story import Story

L1 = {"name": "l1", "weight": 1.0}
ORTSAE = {"name": "ortsae", "weight": 0.5}
PLACEBO = {"name": "random_pairs", "weight": 0.5, "pairs_per_latent": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "base": {"penalties": [L1]},
    "new": {"penalties": [L1, ORTSAE]},
    "new-frozen": {"penalties": [L1, ORTSAE], "freeze": "decoder"},
    "new-soft": {"penalties": [L1, ORTSAE], "freeze": "soft_decoder", "freeze_cosine": 0.9},
    "new-random": {"penalties": [L1, PLACEBO]},
    "base-frozen": {"penalties": [L1], "freeze": "decoder"},
}
FROZEN = ("frozen", "soft")

Compared = Callable[..., Table]


def noisy(name: str, variance: float) -> list[float]:
    """Returns a variant's explained variance at three seeds."""
    return [variance + Random(f"{name} {seed}").gauss(0, 0.002) for seed in range(3)]


@pytest.fixture
def compared(tmp_path: Path) -> Compared:
    def make(variances: dict[str, float], **changes: dict[str, Any]) -> Table:
        """Compares variants of three seeds with `base`, by explained variance; `changes` are of results, by variant."""
        for name, variance in variances.items():
            for seed, ev in enumerate(noisy(name, variance)):
                folder = write_run(tmp_path / name / f"seed-{seed}", **CONFIGS[name])
                write_core(folder, **{"ev": ev, **changes.get(name.replace("-", "_"), {})})
        return compare(tmp_path, baseline=tmp_path / "base")

    return make


def verdict_on(table: Table, name: str) -> Verdict:
    return next(verdict for verdict in table.verdicts if verdict.variant == name)


def outcomes(table: Table, name: str = "new") -> dict[str, str]:
    return {test.kind: test.outcome for test in verdict_on(table, name).controls}


def rules(table: Table) -> list[str]:
    return [finding.rule for finding in verdict_on(table, "new").findings if finding.rule == "H22"]


def test_a_claim_survives_that_its_controls_do_not_reach(compared: Compared) -> None:
    table = compared({"base": 0.8, "new": 0.9, "new-frozen": 0.7, "new-random": 0.8})
    assert outcomes(table) == {"frozen_decoder": "holds", "random_pairs": "holds"}
    assert rules(table) == []
    text = str(verdict_on(table, "new").controls[0])
    assert text.startswith(
        "explained variance is better than the baseline's, and than that of its control new-frozen (frozen_decoder) "
        "too (difference +0.2"
    )
    assert text in " ".join(repr(table).split())
    assert escape(text) in table._repr_html_()


def test_a_claim_that_a_control_matches_is_found(compared: Compared) -> None:
    table = compared({"base": 0.8, "new": 0.9, "new-frozen": 0.9, "new-soft": 0.95, "new-random": 0.8})
    assert outcomes(table) == {"frozen_decoder": "matched", "soft_decoder": "matched", "random_pairs": "holds"}
    assert rules(table) == ["H22", "H22"]
    assert [variant.penalty for variant in table.variants[1:3]] == ["l1 + ortsae", "l1 + ortsae, decoder frozen"]
    verdict = verdict_on(table, "new")
    change = next(change for change in verdict.changes if change.key == "explained_variance")
    assert change.word == "better"  # the word is about the baseline alone
    frozen, soft = (str(next(test for test in verdict.controls if test.control == f"new-{name}")) for name in FROZEN)
    assert "but so is that of its control new-frozen (frozen_decoder); against that it is within noise" in frozen
    assert "its control new-soft (soft_decoder); against that it is worse (difference -0.05" in soft
    assert frozen.endswith(", H22")
    assert any("new against base: H22 warning (matched by a control)" in str(note) for note in table.notes)
    plain = table.to_dict()["verdicts"][0]["controls"][0]
    assert (plain["kind"], plain["control"], plain["key"]) == ("frozen_decoder", "new-frozen", "explained_variance")
    assert (plain["outcome"], plain["text"]) == ("matched", frozen)


def test_the_test_is_the_paired_one_of_every_verdict(compared: Compared) -> None:
    """Holm's correction is over three primary figures; two have no spread or no value, so p counts three times."""
    table = compared({"base": 0.8, "new": 0.9, "new-frozen": 0.7})
    against = verdict_on(table, "new").controls[0].against_control
    ours, theirs = noisy("new", 0.9), noisy("new-frozen", 0.7)
    assert against.p == pytest.approx(3 * stats.ttest_rel(ours, theirs).pvalue)
    assert against.difference == pytest.approx(fmean(ours) - fmean(theirs))


def test_a_claim_for_the_worse_is_tested_and_no_finding(compared: Compared) -> None:
    table = compared({"base": 0.8, "new": 0.7, "new-frozen": 0.6, "new-random": 0.7})
    assert outcomes(table) == {"frozen_decoder": "matched", "random_pairs": "matched"}
    assert rules(table) == []


def test_a_control_at_another_l0_tells_nothing(compared: Compared) -> None:
    table = compared({"base": 0.8, "new": 0.9, "new-frozen": 0.9}, new_frozen={"l0": 11.0})
    assert outcomes(table) == {"frozen_decoder": "no result"}
    assert str(verdict_on(table, "new").controls[0]).endswith("new-frozen (frozen_decoder): no result (H18)")
    assert rules(table) == []


def test_a_control_that_itself_gained_nothing_leaves_the_claim_open(compared: Compared) -> None:
    """0.85 with a wide spread is neither below the variant's nor above the baseline's."""
    table = compared({"base": 0.8, "new": 0.9, "new-frozen": 0.85})
    assert outcomes(table) == {"frozen_decoder": "holds"}
    for seed, ev in enumerate((0.7, 0.85, 1.0)):
        write_core(table.variants[2].rows[seed].run.path, ev=ev)
    study = table.variants[0].rows[0].run.path.parents[1]
    again = compare(study, baseline=study / "base")
    assert outcomes(again) == {"frozen_decoder": "not settled"}
    sentence = str(verdict_on(again, "new").controls[0])
    assert "but is not shown to be better than that of its control new-frozen" in sentence
    assert rules(again) == []


def test_without_controls_or_claims_nothing_is_said(compared: Compared) -> None:
    """The frozen baseline is no control of the variant; and a difference within noise is no claim."""
    table = compared({"base": 0.8, "new": 0.9, "base-frozen": 0.9})
    assert outcomes(table) == outcomes(table, "base-frozen") == {}
    assert verdict_on(table, "new").to_dict()["controls"] == []
    noise = compared({"base": 0.8, "new": 0.8, "new-frozen": 0.7})
    assert outcomes(noise) == {}
    assert outcomes(noise, "new-frozen") == {}  # a control has a verdict as other variants do


def test_an_error_of_the_control_alone_leaves_the_verdict(compared: Compared, tmp_path: Path) -> None:
    degenerate = Health((Finding("H9", "error", "the explained variance is 0.1, below 0.2"),))
    for seed, ev in enumerate(noisy("new-frozen", 0.1)):
        write_run(tmp_path / "new-frozen" / f"seed-{seed}", health=degenerate, **CONFIGS["new-frozen"])
        write_core(tmp_path / "new-frozen" / f"seed-{seed}", ev=ev)
    table = compared({"base": 0.8, "new": 0.9})
    assert outcomes(table) == {"frozen_decoder": "no result"}
    assert str(verdict_on(table, "new").controls[0]).endswith("no result (H9)")
    assert verdict_on(table, "new").forbidden_by == ()


def test_the_report_says_it_too(compared: Compared, tmp_path: Path) -> None:
    table = compared({"base": 0.8, "new": 0.9, "new-frozen": 0.9})
    page = report(tmp_path, tmp_path / "page.html", baseline=tmp_path / "base").read_text()
    sentence = str(verdict_on(table, "new").controls[0]).replace("'", "&#39;")
    assert f"<li>{sentence[0].upper()}{sentence[1:]}.</li>" in page
    _, judged, _ = conclusions(Story.read(tmp_path, tmp_path / "base"))
    assert "better in explained variance" in judged
    assert "(matched by a control in explained variance)" in judged


def test_only_controls_are_looked_for_among_the_variants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten variants with one control, nine are compared with it, and none with each other."""
    asked: list[int] = []
    recognise = against_controls.recognised_control

    def counted(run: Any, variant: Any) -> Any:
        asked.append(1)
        return recognise(run, variant)

    monkeypatch.setattr(against_controls, "recognised_control", counted)
    for number in range(10):
        frozen = {"freeze": "decoder"} if number == 9 else {}
        penalties = [{"name": "l1", "weight": 1.0 + number % 9}]
        write_core(write_run(tmp_path / f"v{number}" / "seed-0", penalties=penalties, **frozen))
    compare(tmp_path, tmp_path / "v0")
    assert len(asked) == 9  # all variants but the baseline, itself included
