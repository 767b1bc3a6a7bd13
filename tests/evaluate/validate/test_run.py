"""Validation: curves and intervals by hand, verdicts from synthetic rows, and one small validation end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from helpers.flips import silent_flips
from saepipe.cli import main
from saepipe.data.errors import ConfigError
from saepipe.data.synthetic import World
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.stats.intervals import Estimate
from saepipe.evaluate.stats.l0_curves import Curve, difference, why_not_covered
from saepipe.evaluate.stats.paired_seeds import mean, sign
from saepipe.evaluate.validate.arm_table import BEGIN, END, KEYS, Row, Table, write_into
from saepipe.evaluate.validate.arms import ARMS, FACTORS, raw_config, select_arms
from saepipe.evaluate.validate.config import ValidateConfig
from saepipe.evaluate.validate.run import validate
from saepipe.evaluate.validate.trained_stacks import (
    StackJob,
    StackTrainer,
    Trial,
    read_outcomes,
    train_single_threaded,
    world_data,
)
from saepipe.train.config import TrainConfig

TINY = World(d_in=12, max_cosine=0.4, num_parents=2, num_flat=4)
SMALL = ValidateConfig(
    worlds={"tiny": TINY},
    baselines={"relu": {"sweep": (0.3, 0.8, 1.6, 3.0), "l0": 2.5}},  # type: ignore[dict-item]
    num_seeds=2,
    num_choice_seeds=1,
    d_sae=16,
    steps=60,
    batch_size=64,
    pool=2048,
    heldout=1024,
    measure_every=20,
    stack=6,
    processes=1,
)


def curve(**by_l0: float) -> Curve:
    return Curve(tuple({"l0": float(l0[1:].replace("_", ".")), "fvu": value} for l0, value in by_l0.items()))


def test_a_curve_is_read_in_log_l0() -> None:
    """A metric that is linear in log L0 is interpolated exactly."""
    points = Curve(tuple({"l0": l0, "fvu": 3 - 0.5 * float(np.log(l0))} for l0 in (2.0, 3.0, 5.0, 9.0)))
    assert points.at(4.0, "fvu") == pytest.approx(3 - 0.5 * np.log(4.0))
    assert points.at(9.0, "fvu") == pytest.approx(3 - 0.5 * np.log(9.0))


def test_a_curve_never_overshoots() -> None:
    steep = curve(_2=0.0, _3=0.0, _4=1.0, _5=1.0)
    values = [steep.at(l0, "fvu") for l0 in np.linspace(2, 5, 50)]
    assert min(values) >= 0
    assert max(values) <= 1
    assert values == sorted(values)


def test_a_curve_is_never_extrapolated() -> None:
    short, long = curve(_3=0.1, _5=0.0), curve(_2=0.2, _6=0.0)
    assert why_not_covered([short, long], 4.0) is None
    assert why_not_covered([short, long], 2.5) == "L0 2.5 is out of range: its seeds share only L0 3.00 to 5.00"
    assert "share no L0" in str(why_not_covered([curve(_1=0.0, _2=0.0), curve(_3=0.0, _4=0.0)], 2.5))
    assert why_not_covered([Curve(())], 2.5)  # all of its SAEs diverged
    with pytest.raises(AssertionError):
        short.at(2.5, "fvu")


def test_intervals_match_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(0.4, 0.05, 5), rng.normal(0.3, 0.05, 5)
    arm = [curve(_2=value, _4=value) for value in after]
    base = [curve(_2=value, _4=value) for value in before]
    estimate = difference(arm, base, 3.0, "fvu")
    expected = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))
    assert estimate.value == pytest.approx(float((after - before).mean()))


def test_a_sign_needs_an_interval_on_one_side_of_0() -> None:
    assert sign(Estimate(0.2, 0.1, 0.3)) == 1
    assert sign(Estimate(-0.2, -0.3, -0.1)) == -1
    assert sign(Estimate(0.2, -0.1, 0.5)) == 0
    assert sign(mean([0.2])) == 0  # one seed has no interval


def make_row(**changes: object) -> Row:
    better, same = Estimate(-0.3, -0.35, -0.25), Estimate(0.0, -0.01, 0.01)
    row = Row(
        arm="ortsae",
        control=False,
        baseline="relu",
        world="orthogonal",
        weight=0.3,
        l0=4.0,
        seeds=5,
        share=0.1,
        pairs=80.0,
        identical=False,
        why_not=None,
        why_no_placebo=None,
        arm_means=dict.fromkeys(KEYS, Estimate(0.02, 0.01, 0.03)),
        baseline_means=dict.fromkeys(KEYS, Estimate(0.32, 0.3, 0.34)),
        differences={**dict.fromkeys(KEYS, same), "absorbed": better},
        from_placebo={**dict.fromkeys(KEYS, same), "absorbed": better},
    )
    return replace(row, **changes)  # type: ignore[arg-type]


def test_a_verdict_says_what_the_intervals_support() -> None:
    assert make_row().verdict == (
        "absorbs less (0.320 -> 0.020); better than random pairs; no change in FVU seen; no change in MCC seen"
    )
    wide = dict.fromkeys(KEYS, Estimate(-0.3, -0.7, 0.1))
    assert "no change in absorption seen" in make_row(differences=wide).verdict
    assert "indistinguishable from random pairs" in make_row(from_placebo=wide).verdict
    worse = dict.fromkeys(KEYS, Estimate(0.05, 0.02, 0.08))
    assert make_row(differences=worse).verdict.startswith("absorbs more")
    assert "FVU worse (+0.050); MCC better (+0.050)" in make_row(differences=worse).verdict


def test_too_little_absorption_gives_no_verdict_on_it() -> None:
    small = dict.fromkeys(KEYS, Estimate(0.002, 0.001, 0.003))
    assert make_row(baseline_means=small, arm_means=small).verdict.startswith("too little absorption to judge")


def test_an_inert_penalty_is_called_inert_whatever_its_metrics() -> None:
    assert make_row(share=1e-9).verdict.startswith("inert")
    assert make_row(identical=True).verdict == "inert: its SAEs equal the baseline's"
    assert make_row(why_not="L0 4 is out of range").verdict == "not compared: L0 4 is out of range"


def test_the_table_goes_between_the_markers_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "penalties.md"
    table = Table((make_row(), make_row(arm="lp", why_not="too few", arm_means={}, baseline_means={})), {}, ("a note",))
    page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    write_into(page, table)
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("\nbelow\n")
    assert "old" not in text
    assert "| ortsae x 0.3 |" in text
    write_into(page, table)
    assert page.read_text() == text
    page.write_text("nothing to replace")
    with pytest.raises(ConfigError, match="no table markers"):
        write_into(page, table)


def test_every_arm_has_a_valid_training_config() -> None:
    for arm in ARMS:
        for baseline in arm.baselines:
            weight = arm.weights[0] if arm.kind == "added" else None
            parts, key, values = raw_config(arm, baseline, ValidateConfig().baselines[baseline], weight)
            assert len(values) >= 4
            sae = {**parts["sae"], "d_sae": 80} | ({"k": values[0]} if key == "sae.k" else {})
            penalties = [dict(item) for item in parts["penalties"]]
            if key != "sae.k":
                penalties[0]["weight"] = values[0]
            config = TrainConfig.parse({"cache": "none", "steps": 1, "sae": sae, "penalties": penalties})
            assert config.sae.name == parts["sae"]["name"]


def test_arms_are_selected_by_name_and_by_penalty() -> None:
    assert [arm.name for arm in select_arms(["ortsae"])] == ["ortsae"]
    assert {arm.name for arm in select_arms(["absorption"])} > {"absorption/suppression", "absorption/study-a"}
    assert select_arms(["all"]) == list(ARMS)
    unlisted = select_arms(["l1"])[0]  # a penalty that is not in the table
    assert unlisted.weights == FACTORS
    with pytest.raises(ConfigError, match="ortsea"):
        select_arms(["ortsea"])


def test_no_seed_is_both_chosen_on_and_reported() -> None:
    assert not set(ValidateConfig().seeds) & set(ValidateConfig().choice_seeds)


def trial(weight: float, seed: int = 0, **penalty: object) -> Trial:
    raw = {
        "cache": "none",
        "sae": {"name": "relu", "d_sae": SMALL.d_sae},
        "penalties": [{"name": "l1", "weight": 0.8}, {"weight": weight, **penalty}],
        "steps": SMALL.steps,
        "batch_size": SMALL.batch_size,
        "optimizer": SMALL.optimizer.to_dict(),
        "seed": seed,
        "device": "cpu",
    }
    return Trial("tiny", seed, 0.8, weight, raw)


def test_a_placebo_is_as_strong_as_the_penalty_at_every_measurement() -> None:
    shares = ((0.5, 0.25, 0.125), (0.1, 0.0, 0.2))
    job = StackJob(tuple(trial(1.0, seed, name="random_pairs") for seed in (0, 1)), "random_pairs", shares)
    steered = train_single_threaded(job, SMALL)
    assert [outcome.shares for outcome in steered] == [pytest.approx(target) for target in shares]
    unsteered = train_single_threaded(replace(job, shares=()), SMALL)
    assert unsteered[0].metrics != steered[0].metrics
    assert unsteered[0].shares != pytest.approx(shares[0], rel=0.05)


def test_a_job_is_reproducible_and_kept_on_disk(tmp_path: Path) -> None:
    job = StackJob((trial(0.3, name="ortsae"),), "ortsae")
    progress = Silent()
    with StackTrainer(SMALL, tmp_path, progress) as trainer:
        first = trainer.submit(job).result()
        assert len(list(tmp_path.glob("*.json"))) == 1
        path = next(tmp_path.glob("*.json"))
        stamp = path.stat().st_mtime_ns
        assert trainer.submit(job).result()[0].metrics == first[0].metrics
        assert path.stat().st_mtime_ns == stamp
        assert silent_flips(path, lambda: read_outcomes(path), 40) == []
        path.write_text(path.read_text().replace("0.", "0.1", 1))
        assert trainer.submit(job).result()[0].metrics == first[0].metrics
        assert progress.said == [f"{path} was changed or damaged: these SAEs are trained again"]
    assert train_single_threaded(job, SMALL)[0].metrics == first[0].metrics


def test_arms_share_the_tokens_of_their_world() -> None:
    world = TINY.model_dump_json()
    sizes = (256, 128, 10, 32, "mean", 256)
    assert world_data(world, 0, sizes) is world_data(world, 0, sizes)
    data = world_data(world, 0, sizes)
    assert data.x.square().sum(1).mean() == pytest.approx(12, rel=1e-5)  # E|x|^2 = d_in
    assert data.batches.max() < 256
    assert not (data.heldout.x[:, None] == data.x[None] / data.scale).all(-1).any()


def test_one_validation_end_to_end(tmp_path: Path) -> None:
    table = validate(["ortsae", "absorption/study-a", "lp"], SMALL, tmp_path, progress=Silent())
    rows = {row.arm: row for row in table.rows}
    assert set(rows) == {"ortsae", "absorption/study-a", "lp"}
    ortsae, study_a = rows["ortsae"], rows["absorption/study-a"]
    assert ortsae.weight in (0.1, 0.3, 1.0)
    assert ortsae.pairs
    assert ortsae.share
    assert ortsae.why_not is None
    assert ortsae.from_placebo
    assert study_a.inert  # too few tokens for any pair to be eligible: the arm equals the baseline
    assert study_a.verdict.startswith("inert")
    assert json.loads(table.to_json())["rows"][0]["verdict"] == table.rows[0].verdict
    count = len(list((tmp_path / "sweeps").iterdir()))
    again = validate(["ortsae"], SMALL, tmp_path, progress=Silent())
    assert again.rows[0] == ortsae
    assert len(list((tmp_path / "sweeps").iterdir())) == count  # nothing was retrained


def test_the_command_reports_errors_with_hints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "ortsea"]) == 2
    assert "did you mean 'ortsae'" in capsys.readouterr().err
    assert main(["validate", "ortsae", "--set", "choice_worlds=[nowhere]"]) == 2
    assert "nowhere" in capsys.readouterr().err
