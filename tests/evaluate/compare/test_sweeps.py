"""Sweeps read at a common L0: known curves give their known difference, and too few runs give the reason."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from helpers.made_results import write_result, write_run
from saepipe.evaluate.compare.sweeps import method_key
from saepipe.evaluate.compare.table import compare
from saepipe.evaluate.results.run_results import read_row
from saepipe.train.rundir.finished_run import open_run

EFFECTS = (0.02, -0.01, 0.03, 0.0)
"""Effect of each seed on both sides; it cancels in the pair."""


def write_sweep(
    folder: Path, name: str, l0s: dict[float, float], better_by: tuple[float, ...], more: tuple[Any, ...] = ()
) -> list[Path]:
    """`l0s`: L0 by L1 weight. Explained variance is 0.5 + 0.1 ln L0 + the seed's effect + `better_by`."""
    runs = []
    for weight, l0 in l0s.items():
        for seed, gain in enumerate(better_by):
            penalties = [{"name": "l1", "weight": weight}, *more]
            run = write_run(folder / f"{name}-{weight:g}" / f"seed-{seed}", penalties=penalties)
            reached = l0 * (1 + 0.01 * seed)
            variance = 0.5 + 0.1 * math.log(reached) + EFFECTS[seed] + gain
            runs.append(write_result(run, {"l0": reached, "explained_variance": variance}))
    return runs


FALLING_TO_2 = {"name": "topk", "d_sae": 8, "k": {"start": 8, "end": 2}}
ORTSAE = ({"name": "ortsae", "weight": 1.0},)
GAIN = (0.031, 0.029, 0.030, 0.032)


def test_sweeps_are_compared_at_a_common_l0(tmp_path: Path) -> None:
    """No two variants have the same L0; at the baseline's own, 20, the curves are 0.0305 apart."""
    base = write_sweep(tmp_path, "base", {1.0: 20.0, 2.0: 12.0, 0.5: 40.0}, (0.0,) * 4)
    new = write_sweep(tmp_path, "new", {1.0: 16.0, 2.0: 9.0, 0.5: 31.0}, GAIN, ORTSAE)
    verdicts = compare([*base, *new], baseline=base[0]).verdicts
    assert [verdict.forbidden_by[0].rule for verdict in verdicts[:-1]] == ["H18"] * 5
    sweep = verdicts[-1]
    assert sweep.l0 == pytest.approx(20 * 1.015)  # the mean over the seeds of the baseline
    assert str(sweep).startswith(
        "sweep of new-1 (3 variants) against sweep of base-1 (3 variants) at L0 20.3: no health"
    )
    change = next(change for change in sweep.changes if change.key == "explained_variance")
    assert change.paired.differences == pytest.approx(GAIN, abs=1e-9)
    assert (change.word, change.primary) == ("better", True)
    assert change.baseline == pytest.approx(0.5 + 0.1 * math.log(20.3) + 0.01)
    assert "l0" not in {change.key for change in sweep.changes}  # it is the same by construction


def test_the_middle_is_read_if_the_baselines_own_l0_is_not_reached(tmp_path: Path) -> None:
    base = write_sweep(tmp_path, "base", {0.5: 40.0, 1.0: 20.0, 2.0: 12.0}, (0.0,) * 3)
    new = write_sweep(tmp_path, "new", {0.5: 30.0, 1.0: 16.0, 2.0: 9.0}, GAIN[:3], ORTSAE)
    sweep = compare([*base, *new], baseline=base[0]).verdicts[-1]
    assert sweep.l0 == pytest.approx(math.sqrt(12.0 * 1.02 * 30.0))
    change = next(change for change in sweep.changes if change.key == "explained_variance")
    assert change.paired.differences == pytest.approx(GAIN[:3], abs=1e-9)


def notes(base: list[Path], new: list[Path]) -> str:
    table = compare([*base, *new], baseline=base[0])
    assert all(verdict.l0 is None for verdict in table.verdicts)
    return "\n".join(map(str, table.notes))


def test_two_l0s_are_too_few(tmp_path: Path) -> None:
    base = write_sweep(tmp_path, "base", {1.0: 20.0, 2.0: 12.0, 0.5: 40.0}, (0.0,))
    new = write_sweep(tmp_path, "new", {1.0: 16.0, 2.0: 9.0}, GAIN[:1], ORTSAE)
    reason = "no seed has 3 different L0s in both sweeps (of 2 and 3 variants)"
    assert f"new-1 and base-1 cannot be compared at a common L0: {reason}" in notes(base, new)


def test_sweeps_without_a_common_l0(tmp_path: Path) -> None:
    base = write_sweep(tmp_path, "base", {1.0: 20.0, 2.0: 15.0, 0.5: 40.0}, (0.0,))
    new = write_sweep(tmp_path, "new", {1.0: 3.0, 2.0: 2.0, 0.5: 5.0}, GAIN[:1], ORTSAE)
    assert "the sweeps share no L0: one starts at 15, another ends at 5" in notes(base, new)


def test_at_matched_l0_nothing_is_interpolated(tmp_path: Path) -> None:
    base = write_sweep(tmp_path, "base", {1.0: 20.0}, (0.0,) * 3)
    new = write_sweep(tmp_path, "new", {1.0: 20.2}, GAIN[:3], ORTSAE)
    (verdict,) = compare([*base, *new], baseline=base[0]).verdicts
    assert (verdict.l0, verdict.forbidden_by) == (None, ())


def test_a_rule_forbids_a_verdict_on_a_sweep_too(tmp_path: Path) -> None:
    base = write_sweep(tmp_path, "base", {1.0: 20.0, 2.0: 12.0, 0.5: 40.0}, (0.0,) * 3)
    new = write_sweep(tmp_path, "new", {1.0: 16.0, 2.0: 9.0, 0.5: 31.0}, GAIN[:3], ORTSAE)
    write_result(new[0], {"l0": 16.0, "explained_variance": 0.8}, tokens=7)
    sweep = compare([*base, *new], baseline=base[0]).verdicts[-1]
    assert [finding.rule for finding in sweep.forbidden_by] == ["H16"]
    assert {change.word for change in sweep.changes} <= {"no result", "not measured"}


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({"penalties": [{"name": "l1", "weight": 1}]}, {"penalties": [{"name": "l1", "weight": 9}]}, True),
        (
            {"penalties": [{"name": "l1", "weight": 1}]},
            {"penalties": [{"name": "l1", "weight": {"start": 0, "end": 1}}]},
            True,
        ),
        ({"penalties": [{"name": "l0_target", "l0": 8}]}, {"penalties": [{"name": "l0_target", "l0": 16}]}, True),
        ({"sae": {"name": "topk", "d_sae": 8, "k": 2}}, {"sae": {"name": "topk", "d_sae": 8, "k": 4}}, True),
        ({"sae": FALLING_TO_2}, {"sae": {**FALLING_TO_2, "k": {"start": 8, "end": 4}}}, True),
        ({"seed": 1, "data_seed": 3}, {"seed": 2, "data_seed": 4}, True),
        ({"penalties": [{"name": "l1", "weight": 1}]}, {"penalties": [{"name": "lp", "weight": 1}]}, False),
        ({"penalties": [{"name": "ortsae", "weight": 1}]}, {"penalties": [{"name": "ortsae", "weight": 2}]}, False),
        ({"sae": FALLING_TO_2}, {"sae": {**FALLING_TO_2, "k": 2}}, False),
        ({"batch_size": 64}, {"batch_size": 128}, False),
        ({"sae": {"name": "topk", "d_sae": 8, "k": 2}}, {"sae": {"name": "topk", "d_sae": 16, "k": 2}}, False),
    ],
    ids=[
        *("weight", "schedule", "target", "k", "scheduled k", "seeds"),
        *("penalty", "another weight", "whether k moves", "batch size", "width"),
    ],
)
def test_a_sweep_varies_sparsity_alone(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], same: bool
) -> None:
    folders = [tmp_path / name / f"seed-{keys.get('seed', 0)}" for name, keys in (("a", first), ("b", second))]
    rows = [
        read_row(open_run(write_run(folder, **{"penalties": [], **keys})))
        for folder, keys in zip(folders, (first, second), strict=True)
    ]
    assert (method_key(rows[:1]) == method_key(rows[1:])) is same
