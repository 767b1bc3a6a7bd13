"""Sentences that open the page."""

from __future__ import annotations

from pathlib import Path

from helpers.charts import run
from helpers.made_results import write_core
from saepipe.evaluate.report.conclusions import conclusions, counted, listed
from saepipe.evaluate.report.story import Story


def test_a_study_with_verdicts(judged: Story) -> None:
    assert conclusions(judged) == (
        "3 variants with 3 seeds each at blocks.1.hook_resid_post, compared with l1.",
        "In the primary metrics, ortsae is better in explained variance and full absorption; placebo is within noise "
        "in explained variance, not comparable (H10 chance-level probes) in full absorption.",
        "The health rules found 1 error and 1 warning: H10 chance-level probes (placebo); H9 degenerate SAE (ortsae).",
    )


def test_without_a_baseline_it_says_what_a_verdict_needs(tmp_path: Path, study: dict[str, list[Path]]) -> None:
    story = Story.read([runs[0] for runs in study.values()])
    assert conclusions(story)[1] == (
        "There is no verdict yet: name the runs to compare with (--baseline RUN) and train at least 3 seeds of each "
        "variant (the fewest is 1)."
    )
    runs = [write_core(run(tmp_path, name, weight=l0), l0=l0) for name, l0 in (("a", 10.0), ("b", 20.0))]
    assert conclusions(Story.read(runs)) == (
        "2 variants with 1 seed each at blocks.1.hook_resid_post.",
        "There is no verdict yet: name the runs to compare with (--baseline RUN), train at least 3 seeds of each "
        "variant (the fewest is 1) and match L0, which is 10 to 20.",
        "The health rules found nothing.",
    )


def test_too_few_seeds_and_unmatched_l0_are_no_verdicts(tmp_path: Path) -> None:
    base, same, other = (
        write_core(run(tmp_path, name, weight=weight), l0=l0)
        for name, weight, l0 in (("a", 1.0, 10.0), ("b", 2.0, 10.0), ("c", 3.0, 20.0))
    )
    assert conclusions(Story.read([same, other], base))[1] == (
        "b is without a verdict: 1 seed in common, not 3; c is not comparable (H18 unmatched L0)."
    )


def test_words() -> None:
    assert counted({"error": 2, "warning": 1}) == "2 errors and 1 warning"
    assert counted({"error": 0, "warning": 0}) == ""
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
