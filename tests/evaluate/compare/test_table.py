"""The table: the config keys it shows, its figures, and its notes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helpers.made_results import write_core, write_result
from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.sealed_result import write_result as write_sealed
from saepipe.evaluate.compare.table import Table, compare
from saepipe.evaluate.results.run_results import Cell


def cells(table: Table, row: int) -> dict[str, Any]:
    return dict(zip(table.columns, table.rows[row], strict=True))


def texts(table: Table) -> list[str]:
    return [note.text for note in table.notes]


def test_only_differing_keys_are_columns(make_run) -> None:
    table = compare([write_core(make_run("weak", weight=1.0)), write_core(make_run("strong", weight=4.0))])
    assert table.settings == ("penalties.0.weight",)
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
    assert any("difference from the base run of the same seed" in note for note in texts(table))


def test_differences_are_between_equal_seeds(make_run) -> None:
    base = [write_core(make_run("base", seed), ev=0.8 + 0.05 * seed) for seed in (0, 1)]
    new = [write_core(make_run("new", seed, weight=2.0), ev=0.7 + 0.05 * seed) for seed in (0, 1, 2)]
    table = compare([*base, *new], baseline=base[0])
    differences = {row[0]: cells(table, n)["explained variance"].difference for n, row in enumerate(table.rows)}
    assert differences["base/seed-0"] is None
    assert differences["base/seed-1"] is None
    assert differences["new/seed-1"] == pytest.approx(-0.1)
    assert differences["new/seed-2"] == pytest.approx(0.0)  # from the baseline's first run: it has no third
    assert differences["new (mean, n=3)"] == pytest.approx(0.75 - 0.825)
    assert differences["base (mean, n=2)"] is None


def test_cells_say_why_they_have_no_value(make_run) -> None:
    table = compare([make_run("bare"), write_core(make_run("measured", weight=2.0), ev=None)])
    assert str(cells(table, 0)["L0"]) == "not measured"
    assert str(cells(table, 1)["explained variance"]) == "undefined"
    assert "explained variance is undefined: nothing varies" in texts(table)


def test_equal_warnings_are_shown_once(make_run) -> None:
    runs = [write_core(make_run(name), warnings=("all texts were empty",)) for name in ("a", "b")]
    assert texts(compare(runs)).count("all texts were empty") == 1


def test_a_warning_of_some_runs_names_them(make_run) -> None:
    for name in ("a", "b", "c"):
        write_core(make_run(name), warnings=() if name == "b" else ("few letters",))
    notes = compare([make_run(name) for name in ("a", "b", "c")]).notes
    assert [note.runs for note in notes if note.text == "a/seed-0, c/seed-0: few letters"] == [("a/seed-0", "c/seed-0")]


def test_means_over_seeds(make_run) -> None:
    runs = [write_core(make_run("a", seed), ev=0.8 + 0.1 * seed) for seed in (0, 1)]
    table = compare([*runs, write_core(make_run("b", weight=2.0))])
    assert [row[0] for row in table.rows] == ["a/seed-0", "a/seed-1", "b/seed-0", "a (mean, n=2)"]
    assert cells(table, 3)["explained variance"].value == pytest.approx(0.85)
    assert cells(table, 3)["explained variance"].low is None
    assert "MSE" not in table.columns  # no run has it


def test_the_mean_of_means_over_pairs_has_a_wider_interval(make_run) -> None:
    values = (0.7, 0.74, 0.73)
    runs = [make_run("l1", seed) for seed in range(3)]
    for run, value in zip(runs, values, strict=True):
        write_result(run, {"pw_mcc": value, "cossim": value}, name="stability")
    [variant] = compare(runs).variants
    narrow, wide = variant.mean("cossim"), variant.mean("pw_mcc")
    assert narrow.value == wide.value == pytest.approx(sum(values) / 3)
    assert wide.high - wide.low == pytest.approx(4 * (narrow.high - narrow.low))  # 2 (n - 1) / (n - 2) of n = 3


def test_a_mean_needs_all_seeds(make_run) -> None:
    table = compare([write_core(make_run("a", seed), ev=0.8 if seed else None) for seed in (0, 1)])
    assert cells(table, 2)["explained variance"] == Cell(why="1 of 2 seeds have a value")
    assert str(cells(table, 2)["explained variance"]) == "undefined"


def test_equal_variants_of_two_studies_are_labelled_by_folder(make_run) -> None:
    old, new = make_run("a", study="old"), make_run("a", study="new", weight=2.0)
    assert [row[0] for row in compare([old, new]).rows] == [str(old), str(new)]


def test_unequal_sparsity_is_noted(make_run) -> None:
    near = [write_core(make_run("a"), l0=10.0), write_core(make_run("b", weight=2.0), l0=10.4)]
    assert not any("sparsity is not matched" in note for note in texts(compare(near)))
    far = write_core(make_run("c", weight=3.0), l0=10.6)
    assert any("L0 is 10 against 10.6: sparsity is not matched" in note for note in texts(compare([*near, far])))


def test_no_verdict_below_three_seeds(make_run) -> None:
    runs = [write_core(make_run("a", seed)) for seed in range(3)]
    assert any("no verdict" in note for note in texts(compare(runs[:2])))
    assert not any("no verdict" in note for note in texts(compare(runs)))


def test_other_heldout_tokens_are_noted(make_run) -> None:
    runs = [write_core(make_run("a"), tokens=100), write_core(make_run("b", weight=2.0), tokens=50)]
    assert any("different held-out tokens" in note for note in texts(compare(runs)))


def test_a_result_of_an_earlier_run_is_left_out(make_run) -> None:
    folder = write_core(make_run("a", weight=1.0))
    make_run("a", weight=9.0)
    table = compare([folder])
    assert str(cells(table, 0)["explained variance"]) == "not measured"
    assert cells(table, 0)["health"] == "H11"
    (note,) = (note for note in table.notes if note.finding)
    assert (note.finding.rule, note.runs) == ("H11", ("a/seed-0",))
    assert "H11 error" in note.text
    assert "core.json is of an earlier run in this folder" in note.text


def test_an_evaluation_of_another_shape_is_left_out(make_run) -> None:
    folder = write_core(make_run("a"))
    path = folder / "eval" / "core.json"
    result = json.loads(path.read_text())
    result["saepipe"]["hook"] = "blocks.9.hook_resid_post"
    result["sae_cfg_dict"]["d_sae"] = 4
    write_sealed(path, result)
    table = compare([folder])
    assert str(cells(table, 0)["explained variance"]) == "not measured"
    (note,) = (note for note in texts(table) if "H12" in note)
    assert "hook blocks.9.hook_resid_post, not blocks.1.hook_resid_post; d_sae 4, not 8" in note


def test_results_without_a_digest_are_mentioned_once(make_run) -> None:
    folders = [write_core(make_run("a")), write_core(make_run("b"))]
    assert not any("digest" in note for note in texts(compare(folders)))
    for folder in folders:
        result = json.loads((folder / "eval" / "core.json").read_text())
        del result["saepipe"]["digest"]
        artifact.write_json(folder / "eval" / "core.json", result)
    (note,) = (note for note in texts(compare(folders)) if "digest" in note)
    assert note.endswith("not checked for damage: 2")


def test_a_foreign_result_is_refused(make_run) -> None:
    folder = make_run("a")
    artifact.write_json(folder / "eval" / "core.json", {"eval_type_id": "core"})
    with pytest.raises(CorruptDataError, match=r"core\.json is not a result of saepipe"):
        compare([folder])


def test_the_table_is_plain_data(make_run) -> None:
    table = compare([write_core(make_run("a"), ev=None)])
    plain = json.loads(table.to_json())
    assert plain["columns"] == list(table.columns)
    assert plain["rows"][0][1] == "ok"
    assert plain["rows"][0][2]["value"] == 10.0
    assert plain["rows"][0][3]["why"] == "nothing varies"
    assert plain["verdicts"] == []
