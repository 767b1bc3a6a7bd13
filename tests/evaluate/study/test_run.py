"""Whole studies on the toy: their verdicts, killed and resumed, extended, changed afterwards, and too small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.killed_training import KillAfter, Killed
from helpers.small_study import plain_study
from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import COMMITTED
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.study.config import StudyConfig
from saepipe.evaluate.study.plan import plan_study
from saepipe.evaluate.study.record import Record
from saepipe.evaluate.study.run import Verdicts, study
from saepipe.evaluate.study.status import status
from saepipe.evaluate.study.train_arms import mean_l0
from saepipe.train.rundir.finished_run import open_run


@pytest.fixture(scope="module")
def finished(toy_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Verdicts]:
    """Returns a study and its outcome, killed twice on the way: while it trained the pilot, and the other seeds."""
    out = tmp_path_factory.mktemp("study")
    for batches in (30, 60):
        with pytest.raises(Killed):
            study(plain_study(toy_cache), out, progress=KillAfter(batches))
    return out, study(plain_study(toy_cache), out)


def words(outcome: Verdicts) -> dict[str, str]:
    return {of.variant: change.word for of in outcome.tables[0].verdicts for change in of.changes if change.primary}


def test_an_arm_with_an_effect_and_a_placebo_are_told_apart(finished: tuple[Path, Verdicts]) -> None:
    _, outcome = finished
    assert words(outcome) == {"slow": "worse", "placebo": "within noise"}
    (page,) = outcome.reports
    assert "Does a small SAE need" in page.read_text()


def test_the_paragraph_says_what_was_compared_and_what_changed(finished: tuple[Path, Verdicts]) -> None:
    out, outcome = finished
    text = outcome.paragraph
    assert text == (out / "paragraph.txt").read_text().strip()
    assert text.startswith("Does a small SAE need this learning rate? slow and placebo were compared")
    assert "at L0 8, at blocks.1.hook_resid_post, over 3 seeds each, paired by seed, trained on 5,120 tokens" in text
    assert "slow: explained variance worse by" in text
    assert "placebo: explained variance within noise" in text


def test_killed_and_resumed_it_is_the_study_that_ran_through(
    finished: tuple[Path, Verdicts], toy_cache: Path, tmp_path: Path
) -> None:
    out, outcome = finished
    whole = study(plain_study(toy_cache), tmp_path)
    for run in sorted((tmp_path / "runs").glob("*/seed-*")):
        assert (run / COMMITTED).read_text() == (out / run.relative_to(tmp_path) / COMMITTED).read_text()
    assert whole.paragraph == outcome.paragraph


def test_a_finished_study_does_nothing_again(finished: tuple[Path, Verdicts], toy_cache: Path) -> None:
    out, outcome = finished
    runs = {run: (run / COMMITTED).stat().st_mtime_ns for run in (out / "runs").glob("*/seed-*")}
    assert len(runs) == 9
    assert study(plain_study(toy_cache), out).paragraph == outcome.paragraph
    assert runs == {run: (run / COMMITTED).stat().st_mtime_ns for run in (out / "runs").glob("*/seed-*")}


def test_the_pilot_measures_the_spread_of_the_differences(finished: tuple[Path, Verdicts]) -> None:
    out, outcome = finished
    pairs = [change.paired for of in outcome.tables[0].verdicts for change in of.changes if change.primary]
    variances = [np.var(paired.differences[:2], ddof=1) for paired in pairs if paired]
    assert Record.read(out).spreads == {"explained_variance": pytest.approx(np.mean(variances) ** 0.5)}
    assert Record.read(out).spread_degrees == 2


def test_seeds_and_arms_join_and_other_metrics_do_not(finished: tuple[Path, Verdicts], toy_cache: Path) -> None:
    """The order matters: each step goes on with the study as the one before left it."""
    out, _ = finished
    kept = {run: (run / COMMITTED).read_text() for run in (out / "runs").glob("*/seed-*")}
    arms = [*plain_study(toy_cache)["arms"], {"name": "other", "penalties": [{"name": "l1", "weight": 0.1}]}]
    outcome = study(plain_study(toy_cache, arms=arms, more_seeds=1), out)
    assert words(outcome).keys() == {"slow", "placebo", "other"}
    assert {of.num_seeds for of in outcome.tables[0].verdicts} == {4}
    assert "1 of 4 seeds were added after a verdict over 3 had been read" in outcome.paragraph
    assert kept == {run: (run / COMMITTED).read_text() for run in kept}

    changed = study(StudyConfig.parse(plain_study(toy_cache, primary_metrics={"delta_ce": 0.01})), out)
    assert "The study is exploratory: after first results could be read, delta CE (nats)" in changed.paragraph
    assert "those declared before, explained variance" in changed.paragraph

    fewer = study(plain_study(toy_cache, question="Another?", arms=arms[:1], seeds=[0, 1, 3]), out)
    assert "The first verdict was on another question: Does a small SAE need" in fewer.paragraph
    assert "1 of 3 seeds were added after a verdict over 3" in fewer.paragraph
    assert "1 seeds of the first verdict are left out: 2" in fewer.paragraph
    assert "Arms of the first verdict that are left out: placebo" in fewer.paragraph
    assert words(changed) == {"slow": "worse", "placebo": "within noise"}


def test_an_l0_joins_and_neither_renames_nor_retrains_an_arm(toy_cache: Path, tmp_path: Path) -> None:
    changes = {"arms": plain_study(toy_cache)["arms"][:1], "spreads": {"explained_variance": 0.001}}
    study(plain_study(toy_cache, l0=8, **changes), tmp_path)
    runs = {run: (run / COMMITTED).stat().st_mtime_ns for run in (tmp_path / "runs").glob("*/seed-*")}
    assert {run.parent.name for run in runs} == {"baseline-l0-8", "slow-l0-8"}
    outcome = study(plain_study(toy_cache, l0=[4, 8], **changes), tmp_path)
    names = [[variant.name for variant in table.variants] for table in outcome.tables]
    assert names == [["baseline-l0-4", "slow-l0-4"], ["baseline-l0-8", "slow-l0-8"]]
    assert [page.name for page in outcome.reports] == ["report-l0-4.html", "report-l0-8.html"]
    assert runs == {run: (run / COMMITTED).stat().st_mtime_ns for run in runs}
    assert len([*(tmp_path / "runs").glob("*/seed-*")]) == 2 * len(runs)


def test_a_study_too_small_is_told_before_it_trains(plain: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        study(plain | {"spreads": {"explained_variance": 0.1}}, tmp_path)
    assert "this study could not show what it asks: explained variance: 3 seeds show" in str(raised.value)
    assert "--seeds +" in str(raised.value)
    assert not (tmp_path / "runs").exists()
    plan = plan_study(StudyConfig.parse(plain | {"spreads": {"explained_variance": 0.1}}), tmp_path)
    (power,) = plan.to_dict()["powers"]
    assert power["seeds_needed"] > 3
    assert plan.to_dict()["memory"]["host"] > 350_000_000  # with the program
    assert plan.page()["memory"].endswith("free) for the training")
    assert plan.num_runs == 9


def test_a_pilot_stops_a_study_too_small(plain: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this study could not show what it asks"):
        study(plain | {"primary_metrics": {"explained_variance": 1e-9}}, tmp_path)
    assert sorted(run.name for run in (tmp_path / "runs" / "slow").iterdir()) == ["seed-0", "seed-1"]


def test_an_arm_that_misses_its_l0_is_trained_once_more(toy_cache: Path, tmp_path: Path) -> None:
    """The learning rate is so small that steering is still on its way when it ends."""
    relu = {"sae": {"name": "relu", "d_sae": 64}, "penalties": [{"name": "l1", "weight": 1.0}]}
    train = plain_study(toy_cache)["train"] | relu
    arms = [{"name": "late", "penalties": [{"name": "l0_target", "l0": 1, "gain": 1e-6, "weight": 0.01}]}]
    config = plain_study(toy_cache, train=train, arms=arms, l0=8, spreads={"explained_variance": 0.001})
    progress = Silent()
    study(config, tmp_path, progress=progress)
    record = Record.read(tmp_path)
    checked = record.checked["late-l0-8"]
    assert checked.trained_to == pytest.approx(8 * checked.wanted / checked.measured)
    assert checked.wanted == record.checked["baseline-l0-8"].measured
    (first,) = (tmp_path / "missed").iterdir()
    runs = [open_run(folder / "seed-0") for folder in (first, tmp_path / "runs" / "late-l0-8")]
    targets = [run.config.to_dict()["penalties"][0]["l0"] for run in runs]
    assert targets == [8.0, checked.trained_to]
    assert any("late-l0-8 has L0" in sentence and "it is trained again" in sentence for sentence in progress.said)
    standing = status(StudyConfig.parse(config), tmp_path)["arms"]["late-l0-8"]
    l0 = mean_l0([tmp_path / "runs" / "late-l0-8" / f"seed-{seed}" for seed in range(3)])
    assert standing == {"trained": 3, "evaluated": 3, "seeds": 3, "l0": l0, "trained_again": True}


def test_an_arm_of_whole_k_is_trained_to_a_whole_k(toy_cache: Path, tmp_path: Path) -> None:
    """Its L0 cannot be between two; where none is nearer, it stays, and H18 speaks."""
    relu = {"sae": {"name": "relu", "d_sae": 64}, "penalties": [{"name": "l1", "weight": 1.0}]}
    train = plain_study(toy_cache)["train"] | relu
    arms = [{"name": "topk", "sae": {"name": "topk", "d_sae": 64, "k": 8}, "penalties": []}]
    config = plain_study(toy_cache, train=train, arms=arms, l0=3, spreads={"explained_variance": 0.001})
    study(config, tmp_path)
    checked = Record.read(tmp_path).checked["topk-l0-3"]
    assert checked.measured == 3
    assert checked.wanted > 3.15
    assert checked.trained_to in (None, round(checked.wanted))
    assert open_run(tmp_path / "runs" / "topk-l0-3" / "seed-0").config.sae.num_active == (checked.trained_to or 3)
