"""The table: which config keys it shows, and what it says of each run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helpers.made_results import write_core
from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact
from saepipe.evaluate.compare.table import compare
from saepipe.evaluate.results.run_results import Cell


def cells(table, row: int) -> dict[str, Any]:
    return dict(zip(table.columns, table.rows[row], strict=True))


def test_only_differing_keys_are_columns(make_run) -> None:
    table = compare([write_core(make_run("weak", weight=1.0)), write_core(make_run("strong", weight=4.0))])
    assert table.columns[:4] == ("run", "penalties.0.weight", "health", "L0")
    assert [cells(table, row)["penalties.0.weight"] for row in (0, 1)] == ["1.0", "4.0"]
    assert cells(table, 0)["explained variance"] == Cell(0.9, 0.89, 0.91)
    assert str(cells(table, 0)["explained variance"]) == "0.9 ±0.01"


def test_differences_are_from_the_baseline(make_run) -> None:
    base, other = write_core(make_run("base"), ev=0.8), write_core(make_run("other", weight=2.0), ev=0.9)
    table = compare([base, other], baseline=base)
    assert len(table.rows) == 2
    assert cells(table, 0)["explained variance"].difference is None
    assert cells(table, 1)["explained variance"].difference == pytest.approx(0.1)
    assert str(cells(table, 1)["explained variance"]).endswith("(+0.1)")
    assert any("difference from base of the same seed" in note for note in table.notes)


def test_differences_are_of_one_seed(make_run) -> None:
    base = [write_core(make_run("base", seed), ev=0.8 + 0.05 * seed) for seed in (0, 1)]
    new = [write_core(make_run("new", seed, weight=2.0), ev=0.7 + 0.05 * seed) for seed in (0, 1, 2)]
    table = compare([*base, *new], baseline=base[0])
    found = {row[0]: cells(table, place)["explained variance"].difference for place, row in enumerate(table.rows)}
    assert found["base/seed-0"] is None
    assert found["base/seed-1"] is None
    assert found["new/seed-1"] == pytest.approx(-0.1)
    assert found["new/seed-2"] == pytest.approx(0.0)  # from the baseline's first: it has no third
    assert found["new (mean, n=3)"] == pytest.approx(0.75 - 0.825)
    assert found["base (mean, n=2)"] is None


def test_what_was_not_measured_says_so(make_run) -> None:
    table = compare([make_run("bare"), write_core(make_run("measured", weight=2.0), ev=None)])
    assert str(cells(table, 0)["L0"]) == "not measured"
    assert str(cells(table, 1)["explained variance"]) == "undefined"
    assert "explained variance is undefined: nothing varies" in table.notes


def test_warnings_are_repeated_once(make_run) -> None:
    runs = [write_core(make_run(name), warnings=("nothing can be seen",)) for name in ("a", "b")]
    assert compare(runs).notes.count("nothing can be seen") == 1


def test_a_warning_of_some_runs_names_them(make_run) -> None:
    for name in ("a", "b", "c"):
        write_core(make_run(name), warnings=() if name == "b" else ("few letters",))
    notes = compare([make_run(name) for name in ("a", "b", "c")]).notes
    assert "a/seed-0, c/seed-0: few letters" in notes


def test_means_over_seeds(make_run) -> None:
    runs = [write_core(make_run("a", seed), ev=0.8 + 0.1 * seed) for seed in (0, 1)]
    table = compare([*runs, write_core(make_run("b", weight=2.0))])
    assert [row[0] for row in table.rows] == ["a/seed-0", "a/seed-1", "b/seed-0", "a (mean, n=2)"]
    assert cells(table, 3)["explained variance"].value == pytest.approx(0.85)
    assert cells(table, 3)["explained variance"].low is None
    assert "MSE" not in table.columns  # no run has it


def test_a_mean_is_of_all_seeds_or_none(make_run) -> None:
    table = compare([write_core(make_run("a", seed), ev=0.8 if seed else None) for seed in (0, 1)])
    assert cells(table, 2)["explained variance"] == Cell(why="1 of 2 seeds have it")
    assert str(cells(table, 2)["explained variance"]) == "undefined"


def test_one_variant_of_two_studies_is_told_apart(make_run) -> None:
    old, new = make_run("a", study="old"), make_run("a", study="new", weight=2.0)
    assert [row[0] for row in compare([old, new]).rows] == [str(old), str(new)]


def test_unequal_sparsity_is_noted(make_run) -> None:
    near = [write_core(make_run("a"), l0=10.0), write_core(make_run("b", weight=2.0), l0=10.4)]
    assert not any("matched sparsity" in note for note in compare(near).notes)
    far = write_core(make_run("c", weight=3.0), l0=10.6)
    assert any("10 to 10.6: not a comparison at matched sparsity" in note for note in compare([*near, far]).notes)


def test_no_verdict_below_three_seeds(make_run) -> None:
    runs = [write_core(make_run("a", seed)) for seed in range(3)]
    assert any("no verdict" in note for note in compare(runs[:2]).notes)
    assert not any("no verdict" in note for note in compare(runs).notes)


def test_other_heldout_tokens_are_noted(make_run) -> None:
    runs = [write_core(make_run("a"), tokens=100), write_core(make_run("b", weight=2.0), tokens=50)]
    assert any("different held-out tokens" in note for note in compare(runs).notes)


def test_a_result_of_a_run_that_lay_there_before_does_not_count(make_run) -> None:
    folder = write_core(make_run("a", weight=1.0))
    make_run("a", weight=9.0)
    table = compare([folder])
    assert str(cells(table, 0)["explained variance"]) == "not measured"
    assert cells(table, 0)["health"] == "H11"
    assert any("H11 error" in note and "is of a run that lay here before" in note for note in table.notes)


def test_an_evaluation_of_another_shape_is_left_out(make_run) -> None:
    folder = write_core(make_run("a"))
    path = folder / "eval" / "core.json"
    result = json.loads(path.read_text())
    result["saepipe"]["hook"] = "blocks.9.hook_resid_post"
    result["sae_cfg_dict"]["d_sae"] = 4
    artifact.write_json(path, result)
    table = compare([folder])
    assert str(cells(table, 0)["explained variance"]) == "not measured"
    (note,) = (note for note in table.notes if "H12" in note)
    assert "hook blocks.9.hook_resid_post, not blocks.1.hook_resid_post; d_sae 4, not 8" in note


def test_a_foreign_result_is_refused(make_run) -> None:
    folder = make_run("a")
    artifact.write_json(folder / "eval" / "core.json", {"eval_type_id": "core"})
    with pytest.raises(CorruptDataError, match=r"core\.json is no evaluation"):
        compare([folder])


def test_the_table_is_plain_data(make_run) -> None:
    table = compare([write_core(make_run("a"), ev=None)])
    plain = json.loads(table.to_json())
    assert plain["columns"] == list(table.columns)
    assert plain["rows"][0][1] == "ok"
    assert plain["rows"][0][2]["value"] == 10.0
    assert plain["rows"][0][3]["why"] == "nothing varies"
    assert plain["verdicts"] == []
