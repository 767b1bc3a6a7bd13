"""The table: which config keys it shows, what it says of each run, and what it refuses to say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from saepipe.data import artifact
from saepipe.data.errors import CorruptDataError
from saepipe.data.health import Finding, Health
from saepipe.evaluate.compare import compare
from saepipe.evaluate.envelope import Request, envelope
from saepipe.evaluate.metrics.base import Measurement
from saepipe.evaluate.metrics.core import Core
from saepipe.evaluate.results import Cell
from saepipe.evaluate.stats import Estimate
from saepipe.train.config import TrainConfig
from saepipe.train.load import open_run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A finished run's folder, untrained; `weight` is the one setting that differs between variants."""

    def make(
        variant: str,
        seed: int = 0,
        weight: float = 1.0,
        study: str = ".",
        health: Health | None = None,
        commit: str = "one",
        d_sae: int = 8,
    ) -> Path:
        folder = tmp_path / study / variant / f"seed-{seed}"
        config = TrainConfig.parse(
            {
                "cache": "nowhere",
                "hook": "blocks.1.hook_resid_post",
                "sae": {"name": "relu", "d_sae": d_sae},
                "penalties": [{"name": "l1", "weight": weight}],
                "steps": 1,
                "seed": seed,
            }
        )
        artifact.write_file(folder / "config.yaml", config.to_yaml().encode())
        artifact.write_json(folder / "sae" / "cfg.json", {"architecture": "standard", "d_in": 4, "d_sae": d_sae})
        (health or Health()).write(folder)
        header = {"kind": "run", "cache": "c", "hook": config.hook, "variant": variant, "seed": seed}
        header |= {"run_id": config.run_id("c"), "provenance": {"commit": commit}}
        files = artifact.digest_files(folder, ["config.yaml", "health.json", "sae/cfg.json"])
        artifact.rewrite_manifest(folder, [header, {"files": files}])
        artifact.commit(folder)
        return folder

    return make


def write_result(
    folder: Path, l0: float = 10.0, ev: float | None = 0.9, tokens: int = 100, warnings: tuple[str, ...] = ()
) -> Path:
    """A core result as an evaluation writes it."""
    run, metric = open_run(folder), Core()
    cfg = json.loads((folder / "sae" / "cfg.json").read_text())
    subject: Any = SimpleNamespace(run=run, name=f"{run.variant}/seed-{run.seed}", cfg=cfg)
    testbed: Any = SimpleNamespace(language_model=SimpleNamespace(identity={"id": "toy"}))
    variance = Estimate(ev, ev - 0.01, ev + 0.01) if ev is not None else Estimate(None, reason="nothing varies")
    measurement = Measurement(
        metrics={
            "sparsity": {"l0": Estimate(l0, l0 - 1, l0 + 1)},
            "reconstruction_quality": {"explained_variance": variance},
        },
        extra={"delta_ce": 0.5},
        reference={"explained_variance": 0.99},
        counts={"tokens": tokens},
        warnings=list(warnings),
    )
    result = envelope(measurement, Request.of(run, metric, 8, "float32"), metric, subject, testbed, "id")
    artifact.write_json(folder / "eval" / "core.json", result)
    return folder


def cells(table, row: int) -> dict[str, Any]:
    return dict(zip(table.columns, table.rows[row], strict=True))


def test_only_differing_keys_are_columns(make_run) -> None:
    table = compare([write_result(make_run("weak", weight=1.0)), write_result(make_run("strong", weight=4.0))])
    assert table.columns[:4] == ("run", "penalties.0.weight", "health", "L0")
    assert [cells(table, row)["penalties.0.weight"] for row in (0, 1)] == ["1.0", "4.0"]
    assert cells(table, 0)["explained variance"] == Cell(0.9, 0.89, 0.91)
    assert str(cells(table, 0)["explained variance"]) == "0.9 ±0.01"


def test_differences_are_from_the_baseline(make_run) -> None:
    base, other = write_result(make_run("base"), ev=0.8), write_result(make_run("other", weight=2.0), ev=0.9)
    table = compare([base, other], baseline=base)
    assert len(table.rows) == 2
    assert cells(table, 0)["explained variance"].difference is None
    assert cells(table, 1)["explained variance"].difference == pytest.approx(0.1)
    assert str(cells(table, 1)["explained variance"]).endswith("(+0.1)")
    assert any("difference from base/seed-0" in note for note in table.notes)


def test_what_was_not_measured_says_so(make_run) -> None:
    table = compare([make_run("bare"), write_result(make_run("measured", weight=2.0), ev=None)])
    assert str(cells(table, 0)["L0"]) == "not measured"
    assert str(cells(table, 1)["explained variance"]) == "undefined"
    assert "explained variance is undefined: nothing varies" in table.notes


def test_warnings_are_repeated_once(make_run) -> None:
    runs = [write_result(make_run(name), warnings=("nothing can be seen",)) for name in ("a", "b")]
    assert compare(runs).notes.count("nothing can be seen") == 1


def test_means_over_seeds(make_run) -> None:
    runs = [write_result(make_run("a", seed), ev=0.8 + 0.1 * seed) for seed in (0, 1)]
    table = compare([*runs, write_result(make_run("b", weight=2.0))])
    assert [row[0] for row in table.rows] == ["a/seed-0", "a/seed-1", "b/seed-0", "a (mean, n=2)"]
    assert cells(table, 3)["explained variance"].value == pytest.approx(0.85)
    assert cells(table, 3)["explained variance"].low is None
    assert str(cells(table, 3)["MSE"]) == "not measured"


def test_one_variant_of_two_studies_is_told_apart(make_run) -> None:
    old, new = make_run("a", study="old"), make_run("a", study="new", weight=2.0)
    assert [row[0] for row in compare([old, new]).rows] == [str(old), str(new)]


def test_unequal_sparsity_is_noted(make_run) -> None:
    near = [write_result(make_run("a"), l0=10.0), write_result(make_run("b", weight=2.0), l0=10.4)]
    assert not any("matched sparsity" in note for note in compare(near).notes)
    far = write_result(make_run("c", weight=3.0), l0=10.6)
    assert any("10 to 10.6: not a comparison at matched sparsity" in note for note in compare([*near, far]).notes)


def test_no_verdict_below_three_seeds(make_run) -> None:
    runs = [write_result(make_run("a", seed)) for seed in range(3)]
    assert any("no verdict" in note for note in compare(runs[:2]).notes)
    assert not any("no verdict" in note for note in compare(runs).notes)


def test_other_heldout_tokens_are_noted(make_run) -> None:
    runs = [write_result(make_run("a"), tokens=100), write_result(make_run("b", weight=2.0), tokens=50)]
    assert any("different held-out tokens" in note for note in compare(runs).notes)


def test_a_result_of_a_run_that_lay_there_before_does_not_count(make_run) -> None:
    folder = write_result(make_run("a", weight=1.0))
    make_run("a", weight=9.0)
    table = compare([folder])
    assert str(cells(table, 0)["L0"]) == "not measured"
    assert cells(table, 0)["health"] == "H11"
    assert any("H11 error" in note and "is of a run that lay here before" in note for note in table.notes)


def test_a_foreign_result_is_refused(make_run) -> None:
    folder = make_run("a")
    artifact.write_json(folder / "eval" / "core.json", {"eval_type_id": "core"})
    with pytest.raises(CorruptDataError, match=r"core\.json is no evaluation"):
        compare([folder])


def test_the_table_is_plain_data(make_run) -> None:
    table = compare([write_result(make_run("a"), ev=None)])
    plain = json.loads(table.to_json())
    assert plain["columns"] == list(table.columns)
    assert plain["rows"][0][1] == "ok"
    assert plain["rows"][0][2]["value"] == 10.0
    assert plain["rows"][0][3]["why"] == "nothing varies"
    assert plain["verdicts"] == []


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
    """The rules that forbid, and the words, of three seeds against three."""
    base = [write_result(make_run("base", seed, **baseline)) for seed in range(3)]
    runs = [write_result(make_run("new", seed, **{"weight": 2.0, **variant}), **measured) for seed in range(3)]
    (verdict,) = compare([*base, *runs], baseline=base[0]).verdicts
    assert (verdict.variant, verdict.baseline) == ("new", "base")
    return sorted({finding.rule for finding in verdict.forbidden_by}), str(verdict)


def test_sound_runs_may_be_compared(make_run) -> None:
    rules, words = judged(make_run, {"health": changed(**OTHER)}, {"health": changed()})
    assert rules == []
    assert words == "new against base: no rule forbids to read the differences (3 seeds)"


@pytest.mark.parametrize("side", ["variant", "baseline"])
def test_an_error_on_either_side_forbids_a_result(make_run, side: str) -> None:
    sides = {"variant": {}, "baseline": {}, side: {"health": Health((INERT,))}}
    rules, words = judged(make_run, sides["variant"], sides["baseline"])
    assert rules == ["H1"]
    assert words == "new against base: NO RESULT, whatever the figures say: H1 inert penalty"


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
def test_twins_are_seen_again(make_run, changes: dict[str, Any], rules: list[str]) -> None:
    found, words = judged(make_run, {"health": changed(**changes)}, {"health": changed()})
    assert found == rules
    assert not rules or "penalties.0.weight: 1.0 -> 2.0" in words


def test_unmatched_l0_forbids_a_result(make_run) -> None:
    rules, words = judged(make_run, {}, {}, l0=10.6)
    assert rules == ["H18"]
    assert "L0 is 10.6 against 10: not at matched sparsity" in words


def test_other_heldout_tokens_forbid_a_result(make_run) -> None:
    assert judged(make_run, {}, {}, tokens=50)[0] == ["H16"]


def test_an_evaluation_of_another_shape_is_left_out(make_run) -> None:
    folder = write_result(make_run("a"))
    path = folder / "eval" / "core.json"
    result = json.loads(path.read_text())
    result["saepipe"]["hook"] = "blocks.9.hook_resid_post"
    result["sae_cfg_dict"]["d_sae"] = 4
    artifact.write_json(path, result)
    table = compare([folder])
    assert str(cells(table, 0)["L0"]) == "not measured"
    (note,) = (note for note in table.notes if "H12" in note)
    assert "hook blocks.9.hook_resid_post, not blocks.1.hook_resid_post; d_sae 4, not 8" in note


def test_one_config_of_two_sources_is_told(make_run) -> None:
    runs = [make_run("a", study="old"), make_run("a", study="new", commit="two")]
    assert any("H13 warning" in note and "one and two" in note for note in compare(runs).notes)
    again = [make_run("a", study="old"), make_run("a", study="new")]
    assert not any("H13" in note for note in compare(again).notes)


def test_few_seeds_are_no_result(make_run) -> None:
    base, new = write_result(make_run("base")), write_result(make_run("new", weight=2.0))
    (verdict,) = compare([new], baseline=base).verdicts
    assert not verdict.forbidden_by
    assert "1 seed is too few" in str(verdict)
