"""Forest plot: its rows, its table, and what cannot be compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.charts import run, table
from helpers.made_results import write_core
from saepipe.evaluate.report.charts.forest import forest, why_not
from saepipe.evaluate.report.story import Story


def test_rows_are_the_primary_figures_then_those_that_can_be_better(judged: Story) -> None:
    chart = forest(judged)
    assert chart is not None
    figures = dict.fromkeys((row["figure"], row["kind"]) for row in table(chart))
    assert list(figures) == [
        ("explained variance", "primary"),
        ("full absorption", "primary"),
        ("delta CE (nats)", "exploratory"),
        ("CE score", "exploratory"),
        ("alive", "exploratory"),
        ("probe of 1 latent", "exploratory"),
        ("probe of 5 latents", "exploratory"),
    ]
    assert {row["variant"] for row in table(chart)} == {"placebo", "ortsae"}


def test_the_table_has_the_differences_of_the_verdicts(judged: Story) -> None:
    chart = forest(judged)
    assert chart is not None
    rows = {(row["variant"], row["figure"]): row for row in table(chart)}
    for verdict in judged.table.verdicts:
        for change in verdict.changes:
            row = rows.get((verdict.variant, change.shown.label))
            if row is not None:
                assert change.paired is not None
                assert row["difference"] == pytest.approx(change.difference, rel=1e-4)
                assert (row["low"], row["high"]) == pytest.approx(
                    (change.paired.mean.low, change.paired.mean.high), rel=1e-3
                )
                assert (row["verdict"], row["effect of interest"]) == (change.word, change.interesting)
    assert rows["ortsae", "explained variance"]["verdict"] == "better"
    assert rows["placebo", "full absorption"]["reason"] == "not comparable: H10 chance-level probes"
    assert rows["placebo", "explained variance"]["reason"] is None


def test_a_figure_of_only_some_seeds_is_not_comparable(tmp_path: Path) -> None:
    runs = [write_core(run(tmp_path, "a", seed), ev=0.8 + seed / 100) for seed in range(3)]
    runs += [
        write_core(run(tmp_path, "b", seed, weight=2.0), ev=0.9 + seed / 90 if seed else None) for seed in range(3)
    ]
    (verdict,) = Story.read(runs, runs[0]).table.verdicts
    reasons = {change.key: why_not(change) for change in verdict.changes}
    assert reasons["explained_variance"] == "not comparable: 2 of 3 seeds have a value"
    assert reasons["delta_ce"] is None


def test_variants_without_any_verdict_are_only_named_if_there_are_many(tmp_path: Path) -> None:
    l0s = {"a": 10.0, "b": 10.1, "c": 20.0, "d": 30.0, "e": 40.0, "f": 50.0}
    runs = [write_core(run(tmp_path, name, weight=l0), l0=l0) for name, l0 in l0s.items()]
    few, many = (forest(Story.read(some, runs[0])) for some in (runs[:3], runs))
    assert few is not None
    assert many is not None
    assert {row["variant"] for row in table(few)} == {"b", "c"}
    assert {row["variant"] for row in table(many)} == {"b"}
    for chart in (few, many):
        assert "Not comparable in any figure: c (H18 unmatched L0)" in chart.description


def test_there_is_no_plot_without_a_baseline(study: dict[str, list[Path]]) -> None:
    assert forest(Story.read(study["l1"])) is None
