"""Verdicts: the rules that forbid one, and the words that the seeds support."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from helpers import made_results
from helpers.made_results import write_core, write_result
from saepipe.cli import main
from saepipe.data.folders.health import Finding, Health
from saepipe.evaluate.compare.difference import Word
from saepipe.evaluate.compare.table import Table, compare
from saepipe.train.rundir.finished_run import open_run

INERT = Finding("H1", "error", "absorption was exactly 0")
EVIDENCE = {
    "reconstruction": {str(step): 200.22540283203125 for step in range(100, 1200, 100)},
    "final_reconstruction": 200.22540283203125,
    "W_dec": "a digest",
    "W_dec_entries": [0.25, 0.5],
}


def changed(**changes: Any) -> Health:
    return Health(evidence={**EVIDENCE, **changes})


OTHER = {"reconstruction": {}, "final_reconstruction": 199.0, "W_dec": "another", "W_dec_entries": [0.25, 0.6]}


def judged(make_run, variant: dict[str, Any], baseline: dict[str, Any], **measured: Any) -> tuple[list[str], str]:
    """The rules that forbid a verdict on three seeds against three, and the verdict's text."""
    base = [write_core(make_run("base", seed, **baseline)) for seed in range(3)]
    runs = [write_core(make_run("new", seed, **{"weight": 2.0, **variant}), **measured) for seed in range(3)]
    (verdict,) = compare([*base, *runs], baseline=base[0]).verdicts
    assert (verdict.variant, verdict.baseline) == ("new", "base")
    return sorted({finding.rule for finding in verdict.forbidden_by}), str(verdict)


def test_sound_runs_may_be_compared(make_run) -> None:
    rules, text = judged(make_run, {"health": changed(**OTHER)}, {"health": changed()})
    assert rules == []
    assert text == "new against base: no health rule prevents comparing these runs (3 seeds)"


@pytest.mark.parametrize("side", ["variant", "baseline"])
def test_an_error_on_either_side_forbids_a_result(make_run, side: str) -> None:
    sides = {"variant": {}, "baseline": {}, side: {"health": Health((INERT,))}}
    rules, text = judged(make_run, sides["variant"], sides["baseline"])
    assert rules == ["H1"]
    assert text == "new against base: NO RESULT, whatever the figures show: H1 inert penalty"


CHANCE = Finding(
    "H10", "error", "the probes of 2 of 26 first letters have an F1 above 0.6 (required: 20)", "absorption"
)


def test_an_error_of_an_evaluation_blocks_its_own_figures_alone(make_run) -> None:
    """Nothing about reconstruction rests on the probes of the first letters."""
    base = [write_core(make_run("base", seed)) for seed in range(3)]
    new = [write_core(make_run("new", seed, weight=2.0), ev=0.95 + seed / 1000) for seed in range(3)]
    for seed, run in enumerate((*base, *new)):
        figures = {"mean_full_absorption_score": 0.1 + seed / 100}
        write_result(run, figures, name="absorption", findings=(CHANCE,))
    (verdict,) = compare([*base, *new], baseline=base[0]).verdicts
    words = {change.key: (change.word, [finding.rule for finding in change.blocked_by]) for change in verdict.changes}
    assert words["mean_full_absorption_score"] == ("no result", ["H10"] * 6)
    assert words["explained_variance"] == ("better", [])
    assert verdict.may_judge
    assert str(verdict).endswith("comparing these runs, except in absorption: H10 chance-level probes (3 seeds)")
    assert verdict.to_dict()["blocked"]["absorption"][0]["rule"] == "H10"


def test_an_error_of_core_blocks_all_figures_since_they_rest_on_its_l0(make_run) -> None:
    rules, text = judged(make_run, {}, {}, tokens=77)
    assert rules == ["H16"]
    assert "NO RESULT" in text


def test_a_warning_does_not_forbid(make_run) -> None:
    warned = Health((Finding("H9", "warning", "31% of the latents are dead"),))
    assert judged(make_run, {"health": warned}, {})[0] == []


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({}, ["H2", "H3"]),
        ({"W_dec": "another", "W_dec_entries": [0.25, 0.6]}, ["H2"]),
        ({**OTHER, "W_dec_entries": [0.25, 0.5 + 1e-8]}, ["H3"]),
        ({**OTHER, "reconstruction": EVIDENCE["reconstruction"]}, ["H2"]),
        ({**OTHER, "final_reconstruction": 200.22540283203125}, ["H2"]),
        (OTHER, []),
    ],
    ids=["equal", "loss", "weights", "series", "final", "other"],
)
def test_twins_are_checked_again(make_run, changes: dict[str, Any], rules: list[str]) -> None:
    forbidding, text = judged(make_run, {"health": changed(**changes)}, {"health": changed()})
    assert forbidding == rules
    assert not rules or "penalties.0.weight: 1.0 -> 2.0" in text


def test_unmatched_l0_forbids_a_result(make_run) -> None:
    rules, text = judged(make_run, {}, {}, l0=10.6)
    assert rules == ["H18"]
    assert "L0 is 10.6 against 10: sparsity is not matched" in text


def test_other_heldout_tokens_forbid_a_result(make_run) -> None:
    assert judged(make_run, {}, {}, tokens=50)[0] == ["H16"]


def test_one_config_at_two_commits_is_noted(make_run) -> None:
    runs = [make_run("a", study="old"), make_run("a", study="new", commit="two")]
    assert any("H13 warning" in note.text and "one and two" in note.text for note in compare(runs).notes)
    again = [make_run("a", study="old"), make_run("a", study="new")]
    assert not any("H13" in note.text for note in compare(again).notes)


def test_few_seeds_are_no_result(make_run) -> None:
    base, new = write_core(make_run("base")), write_core(make_run("new", weight=2.0))
    (verdict,) = compare([new], baseline=base).verdicts
    assert not verdict.forbidden_by
    assert "1 seed is too few" in str(verdict)


def test_one_seed_in_two_folders_counts_once(make_run) -> None:
    """Three runs per side but two seeds: a run that is made again does not add a seed."""
    base = [write_core(make_run("base", seed)) for seed in range(3)]
    new = [write_core(make_run("new", seed, weight=2.0)) for seed in range(2)]
    again = write_core(make_run("new", 0, weight=2.0, study="again"))
    (verdict,) = compare([*base, *new, again], baseline=base[0]).verdicts
    assert verdict.num_seeds == 2
    assert {change.word for change in verdict.changes if change.paired} == {"too few seeds"}
    assert "left out, because the other side has no run with the same seed" in str(verdict.findings)


def test_only_equal_seeds_are_pairs(make_run) -> None:
    base = [write_core(make_run("base", seed), ev=0.8 + seed / 100) for seed in (0, 1, 2, 3)]
    new = [write_core(make_run("new", seed, weight=2.0), ev=0.7 + seed / 100) for seed in (3, 2, 9, 1)]
    table = compare([*base, *new], baseline=base[0])
    (verdict,) = table.verdicts
    assert verdict.num_seeds == 3
    (change,) = (change for change in verdict.changes if change.key == "explained_variance")
    assert change.paired.differences == pytest.approx((-0.1, -0.1, -0.1))
    (note,) = (note for note in table.notes if "left out" in note.text)
    assert note.text.startswith("new against base: H17 warning")
    assert "new/seed-9, base/seed-0: left out" in note.text
    assert note.finding in verdict.findings


def test_without_a_common_seed_there_is_no_verdict(make_run) -> None:
    base = [write_core(make_run("base", seed)) for seed in (0, 1, 2)]
    new = [write_core(make_run("new", seed, weight=2.0)) for seed in (3, 4, 5)]
    (verdict,) = compare([*base, *new], baseline=base[0]).verdicts
    assert "they have no seed in common" in str(verdict)
    assert {change.word for change in verdict.changes} == {"not measured"}


def words(table: Table) -> dict[str, Word]:
    (verdict,) = table.verdicts
    return {change.key: change.word for change in verdict.changes}


def moved(make_run, steps: tuple[float, ...], **keys: Any) -> list[Path]:
    """A baseline, and a variant whose explained variance differs by these steps, seed by seed."""
    base = [write_core(make_run("base", seed, **keys), ev=0.80 + 0.02 * seed) for seed in range(len(steps))]
    new = [
        write_core(make_run("new", seed, weight=2.0, **keys), ev=0.80 + 0.02 * seed + step)
        for seed, step in enumerate(steps)
    ]
    return [*base, *new]


def test_a_significant_change_has_a_direction(make_run) -> None:
    runs = moved(make_run, (0.050, 0.052, 0.049, 0.051))
    table = compare(runs, baseline=runs[0])
    assert words(table)["explained_variance"] == "better"
    assert words(table)["l0"] == "no spread over seeds"
    assert words(table)["mean_full_absorption_score"] == "not measured"
    plain = json.loads(table.to_json())["verdicts"][0]
    (change,) = (change for change in plain["changes"] if change["key"] == "explained_variance")
    assert change["difference"] == pytest.approx(0.0505)
    assert change["interval"][0] < 0.0505 < change["interval"][1]
    assert (change["kind"], change["interesting"], change["num_seeds"]) == ("primary", 0.01, 4)
    assert change["p_holm"] == pytest.approx(3 * change["p"])
    assert change["detectable"] < 0.01


def test_declared_metrics_are_primary(make_run) -> None:
    """The declaration is stored with the run but is not part of its id."""
    declared = {"l0": 1.0, "explained_varience": 0.1}
    runs = moved(make_run, (0.050, 0.052, 0.049), primary_metrics=declared)
    assert open_run(runs[0]).run_id == open_run(make_run("same", 0)).run_id
    table = compare(runs, baseline=runs[0])
    (verdict,) = table.verdicts
    assert {change.key: change.interesting for change in verdict.changes if change.primary} == declared
    assert table.columns[-1] == "explained_varience"
    assert any("H17" in note.text and "did you mean explained_variance?" in note.text for note in table.notes)


def test_different_declarations_are_united(make_run) -> None:
    base = write_core(make_run("base", primary_metrics={"l0": 1.0, "mse": 0.5}))
    new = write_core(make_run("new", weight=2.0, primary_metrics={"l0": 0.1}))
    table = compare([new], baseline=base)
    (verdict,) = table.verdicts
    assert {change.key: change.interesting for change in verdict.changes if change.primary} == {"l0": 0.1, "mse": 0.5}
    assert any("different primary metrics (l0: 1, mse: 0.5 against l0: 0.1)" in note.text for note in table.notes)


def test_an_error_of_an_evaluation_forbids_a_result(make_run) -> None:
    chance = Finding("H10", "error", "all probes guess")
    rules, text = judged(make_run, {}, {}, findings=(chance,))
    assert rules == ["H10"]
    assert "NO RESULT, whatever the figures show: H10 chance-level probes" in text


@pytest.mark.parametrize(
    ("keys", "difference"),
    [
        ({"mode": "reference"}, "mode: 'fixed' -> 'reference'"),
        ({"dtype": "bfloat16"}, "config.dtype: 'float32' -> 'bfloat16'"),
        ({"settings": {"num_contexts": 3}}, "config.num_contexts: None -> 3"),
        ({"works": "other texts"}, "model_work: 'w' -> 'other texts'"),
    ],
    ids=["mode", "dtype", "settings", "texts"],
)
def test_different_evaluation_settings_forbid_a_result(make_run, keys: dict[str, Any], difference: str) -> None:
    rules, text = judged(make_run, {}, {}, **keys)
    assert rules == ["H16"]
    assert "core was measured differently for base/seed-0 and new/seed-0" in text
    assert difference in text


ABSORBED = "mean_full_absorption_score"


def absorbed(run: Path, **letters: float) -> Path:
    figures = {"l0": 10.0, ABSORBED: fmean(letters.values())}
    return made_results.write_result(run, figures, parts={ABSORBED: letters})


def test_means_over_different_letters_are_compared_over_the_common_ones(make_run) -> None:
    """Only the variant has the letter a, and absorbs much of it; of b and c it absorbs 0.1 less than the baseline."""
    base = [absorbed(make_run("base", seed), b=0.4 + 0.01 * seed, c=0.6) for seed in range(3)]
    new = [absorbed(make_run("new", seed, weight=2.0), a=1.0, b=0.3, c=0.5 - 0.01 * seed) for seed in range(3)]
    table = compare([*base, *new], baseline=base[0])
    [note] = [note.text for note in table.notes if note.text.startswith("H16 warning")]
    assert "means over 2 to 3 measurable parts per run, 2 in all runs (b c)" in note
    (verdict,) = table.verdicts
    assert verdict.forbidden_by == ()
    [change] = [change for change in verdict.changes if change.key == ABSORBED]
    assert change.paired.differences == pytest.approx((-0.1, -0.11, -0.12))
    assert change.word == "better"
    column = table.columns.index("full absorption")
    assert table.rows[3][column].value == pytest.approx(0.6)
    assert table.rows[3][column].difference == pytest.approx(-0.1)


def test_without_a_common_letter_there_is_no_difference(make_run) -> None:
    base = [absorbed(make_run("base", seed), b=0.4) for seed in range(3)]
    new = [absorbed(make_run("new", seed, weight=2.0), a=0.1) for seed in range(3)]
    assert words(compare([*base, *new], baseline=base[0]))[ABSORBED] == "not measured"


def test_equal_letters_need_no_note(make_run) -> None:
    runs = [absorbed(make_run("base"), a=0.2, b=0.4), absorbed(make_run("new", weight=2.0), a=0.3, b=0.4)]
    assert not any("H16" in note.text for note in compare(runs, baseline=runs[0]).notes)


@pytest.mark.parametrize(("off", "rules"), [(1e-7, []), (1e-5, ["H16"])])
def test_figures_of_the_model_must_be_equal(make_run, off: float, rules: list[str]) -> None:
    base = [make_run("base", seed) for seed in range(3)]
    new = [make_run("new", seed, weight=2.0) for seed in range(3)]
    for run in (*base, *new):
        value = 3.5 + (off if run == new[1] else 0.0)
        made_results.write_result(run, {"l0": 10.0, "ce_loss_without_sae": value})
    table = compare([*base, *new], baseline=base[0])
    (verdict,) = table.verdicts
    assert [finding.rule for finding in verdict.forbidden_by] == rules
    assert not rules or "different evaluation data: clean CE (nats) (ce_loss_without_sae)" in str(verdict)
    assert "ce_loss_without_sae" not in words(table)  # no verdict on a figure that no SAE can change


def test_noisy_figures_are_marked(make_run) -> None:
    run = make_run("a")
    made_results.write_result(run, {"tpp_threshold_10_total_metric": 0.2})
    table = compare([run])
    (index,) = (index for index, key in enumerate(table.figures) if key.startswith("tpp_"))
    label = table.columns[index - len(table.figures)]
    assert label.endswith("(noisy)")
    assert any(note.text.startswith(label) and "2605.18229" in note.text for note in table.notes)
    assert table.figures[index] not in table.short


def test_the_terminal_shows_the_words(make_run, capsys: pytest.CaptureFixture[str]) -> None:
    runs = moved(make_run, (0.050, 0.052, 0.049, 0.051))
    assert main(["compare", *map(str, runs), "--baseline", str(runs[0])]) == 0
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if line.split()[:3] == ["explained", "variance", "*"])
    assert line.split()[-1] == "better"
    assert "[+0.0484, +0.0526]" in line
