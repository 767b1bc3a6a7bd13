"""Data of the page: figures of variants, ordered findings, configs, provenance, and facts about the cache."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers.made_caches import structured_rows, write_cache
from helpers.made_results import write_core, write_result, write_run
from helpers.made_stories import (
    write_evaluation,
    write_geometry,
    write_imported,
    write_log,
    write_probing,
    write_run_on,
)
from saepipe.data.folders.health import Finding, Health
from saepipe.data.folders.sealed_result import write_result as write_sealed
from saepipe.evaluate.compare.variant_means import Mean, mean
from saepipe.evaluate.report.cached import QUANTILES, CacheFacts
from saepipe.evaluate.report.story import Story
from saepipe.evaluate.results.run_results import Cell
from saepipe.evaluate.stats.intervals import Estimate

pytestmark = pytest.mark.quick

HOOK = "blocks.1.hook_resid_post"
L1, ORTSAE = {"name": "l1", "weight": 1.0}, {"name": "ortsae", "weight": 0.5}
T_2 = 4.302652729911275  # Student's t with 2 degrees of freedom, at 0.975


def run(folder: Path, name: str, seed: int = 0, **changes) -> Path:
    return write_run(folder / name / f"seed-{seed}", **changes)


# --- variants


def test_an_interval_over_three_seeds_is_students() -> None:
    average = mean([Cell(value, value - 9, value + 9) for value in (1.0, 2.0, 6.0)])
    half = T_2 * math.sqrt((4 + 1 + 9) / 2) / math.sqrt(3)
    assert average.value == pytest.approx(3.0)
    assert (average.low, average.high) == pytest.approx((3 - half, 3 + half))
    assert average.over == "seeds"


def test_fewer_seeds_have_an_interval_of_evaluation_noise() -> None:
    assert mean([Cell(2.0, 1.0, 4.0)]) == Mean(2.0, 1.0, 4.0, "evaluation")
    assert mean([Cell(2.0, 1.0, 4.0), Cell(4.0, 3.5, 5.0)]) == Mean(3.0, 2.25, 4.5, "evaluation")
    assert mean([Cell(2.0, 1.0, 4.0), Cell(4.0)]) == Mean(3.0)


def test_a_mean_needs_all_seeds() -> None:
    assert mean([Cell(1.0), Cell(why="nothing varies")]) == Mean(None, why="1 of 2 seeds have a value: nothing varies")
    assert mean([Cell()]) == Mean(None, why="not measured")


def test_variants_are_named_by_their_penalties(tmp_path: Path) -> None:
    write_run(tmp_path / "plain" / "seed-0", penalties=[])
    runs = [
        *(run(tmp_path, "l1", seed, penalties=[L1]) for seed in (0, 1)),
        run(tmp_path, "both", penalties=[L1, ORTSAE]),
        run(tmp_path, "off", penalties=[L1, ORTSAE | {"weight": 0.0}]),
        tmp_path / "plain" / "seed-0",
        write_imported(tmp_path / "scope" / "seed-0"),
    ]
    variants = {variant.name: variant for variant in Story.read(runs).variants}
    assert {name: variant.penalty for name, variant in variants.items()} == {
        "l1": "l1",
        "both": "l1 + ortsae",
        "off": "l1",
        "plain": "no penalty",
        "scope": "imported from gemma-scope",
    }
    assert [row.label for row in variants["l1"].rows] == ["l1/seed-0", "l1/seed-1"]
    assert [name for name, variant in variants.items() if variant.imported] == ["scope"]


def test_the_architecture_is_named_if_it_differs(tmp_path: Path) -> None:
    topk = run(tmp_path, "topk", sae={"name": "topk", "d_sae": 8, "k": 2}, penalties=[])
    story = Story.read([run(tmp_path, "l1"), topk, write_imported(tmp_path / "scope" / "seed-0")])
    assert [variant.penalty for variant in story.variants] == [
        "relu: l1",
        "topk: no penalty",
        "imported from gemma-scope",
    ]


def test_two_variants_with_equal_names_stay_separate(tmp_path: Path) -> None:
    story = Story.read([run(tmp_path / "old", "a"), run(tmp_path / "new", "a", 1, penalties=[ORTSAE])])
    assert [variant.name for variant in story.variants] == ["a/seed-0", "a/seed-1"]


# --- findings, configs, logs, results


def test_errors_come_before_warnings_and_equal_findings_once(tmp_path: Path) -> None:
    weak, inert = Finding("H1", "warning", "it hardly steers"), Finding("H1", "error", "it was exactly 0", "l1")
    write_core(run(tmp_path, "a", health=Health((weak,))))
    write_core(run(tmp_path, "b", health=Health((weak, inert)), penalties=[ORTSAE]), tokens=50)
    write_result(tmp_path / "a" / "seed-0", {"l0": 3.0}, findings=(Finding("H10", "error", "labels fail"),))
    findings = Story.read([tmp_path / name / "seed-0" for name in ("a", "b")]).findings
    assert [(reported.finding.rule, reported.finding.severity, reported.labels) for reported in findings] == [
        ("H10", "error", ("a/seed-0",)),
        ("H1", "error", ("b/seed-0",)),
        ("H16", "error", ()),
        ("H1", "warning", ("a/seed-0",)),
        ("H1", "warning", ("b/seed-0",)),
    ]
    assert str(findings[1]) == "b/seed-0: inert penalty (H1, error): it was exactly 0"
    assert str(findings[2]).startswith("the comparison: different data (H16, error): ")


def test_findings_are_grouped_over_the_seeds_of_a_variant(tmp_path: Path) -> None:
    dead = [Finding.measured("H9", "warning", "{:.0%} are dead", share) for share in (0.48, 0.51)]
    runs = [write_core(run(tmp_path, "a", seed, health=Health((dead[seed],)))) for seed in (0, 1)]
    (reported,) = Story.read(runs).findings
    assert (reported.where, reported.variant, reported.labels) == ("a, 2 seeds", "a", ("a/seed-0", "a/seed-1"))
    assert reported.finding.message == "48 to 51% are dead"


def test_roles_are_those_of_the_runs_own_results(tmp_path: Path) -> None:
    a, b = write_probing(run(tmp_path, "a"), 0.8), run(tmp_path, "b", penalties=[ORTSAE])
    story = Story.read([a, b])
    assert list(story.roles["a/seed-0"]) == [1, 2, 3, 4]
    assert story.roles["b/seed-0"] == {}
    result = json.loads((a / "eval" / "sparse_probing.json").read_text())
    result["saepipe"]["fingerprints"]["run"] = "another"
    write_sealed(a / "eval" / "sparse_probing.json", result)
    assert Story.read([a]).roles["a/seed-0"] == {}


def test_configs_are_complete_and_their_differences_listed(tmp_path: Path) -> None:
    story = Story.read([run(tmp_path, "a"), run(tmp_path, "b", 1, penalties=[L1 | {"weight": 4.0}])])
    assert story.table.settings == ("penalties.0.weight",)
    assert [story.differences(row) for row in story.rows] == [
        {"penalties.0.weight": "1.0"},
        {"penalties.0.weight": "4.0"},
    ]
    assert story.configs["b/seed-1"]["penalties"][0]["weight"] == 4.0
    assert story.configs["b/seed-1"]["optimizer"]["lr"] == 3e-4  # a default, written out


def test_a_run_without_a_log_has_no_lines(tmp_path: Path) -> None:
    story = Story.read([write_log(run(tmp_path, "a"), {"l1": [(1.0, 0.5)] * 3}), run(tmp_path, "b", penalties=[])])
    assert [line["step"] for line in story.logs["a/seed-0"]] == [10, 20, 30]
    assert story.logs["b/seed-0"] == ()
    assert story.variant_of("b/seed-0").name == "b"


def test_entries_of_latents_become_histograms(tmp_path: Path) -> None:
    a = run(tmp_path, "a")
    latents = [{"feature_density": density, "max_decoder_cosine_sim": 0.5} for density in (0.0, 0.1, 0.1, 1e-5)]
    write_evaluation(a, "core", {"l0": 3.0}, [*latents, {"feature_density": 0.02, "max_decoder_cosine_sim": None}])
    write_geometry(a, {20: 4}, {21: 4})
    results = Story.read([a]).results["a/seed-0"]
    assert results["core"]["eval_result_details"] == []
    histogram = results["core"]["saepipe"]["histograms"]["log10_density"]
    filled = {edge: count for edge, count in zip(histogram["edges"], histogram["counts"], strict=False) if count}
    assert filled == {-5.0: 1, -1.75: 1, -1.0: 2}  # the dead latent is in no bin
    assert sum(results["core"]["saepipe"]["histograms"]["max_decoder_cosine"]["counts"]) == 4
    assert results["geometry"]["saepipe"]["histograms"]["log10_density"]["counts"][20] == 4


def test_a_result_of_another_run_is_left_out(tmp_path: Path) -> None:
    a = write_core(run(tmp_path, "a"))
    result = json.loads((a / "eval" / "core.json").read_text())
    result["saepipe"]["fingerprints"]["run"] = "another"
    write_sealed(a / "eval" / "core.json", result)
    story = Story.read([a])
    assert story.results["a/seed-0"] == {}
    assert [reported.finding.rule for reported in story.findings] == ["H11"]


# --- the cache and provenance


@pytest.fixture
def make_cache(tmp_path: Path) -> Callable[..., Path]:
    def make(scale: float = 1.0) -> Path:
        x = structured_rows(3000, 24)
        x[:, 5] *= scale
        return write_cache(tmp_path / "cache", {HOOK: x})

    return make


def test_norms_by_position_match_the_rows(tmp_path: Path, make_cache) -> None:
    cache = make_cache()
    facts = Story.read([write_run_on(tmp_path / "a" / "seed-0", cache)]).caches.popitem()[1]
    assert isinstance(facts, CacheFacts)
    norms, x = facts.norms[HOOK], structured_rows(3000, 24).float().norm(dim=1).numpy()
    assert norms.first.tolist() == norms.last.tolist() == list(range(1, 16))
    for position in range(1, 16):
        rows = x[position - 1 :: 15]
        assert norms.counts[position - 1] == len(rows)
        assert norms.quantiles[position - 1] == pytest.approx(np.quantile(rows, QUANTILES))
    assert facts.num_tokens == 3000
    assert facts.num_bytes >= sum(path.stat().st_size for path in (cache / "acts").rglob("c/*/*") if path.is_file())


def test_the_pace_is_between_lines_of_one_process(tmp_path: Path, make_cache) -> None:
    cache = make_cache()
    lines = [(0.0, 1, "train", 100), (4.0, 1, "train", 100), (99.0, 2, "train", 50), (104.0, 2, "heldout", 10)]
    lines += [(200.0, 3, "train", 0), (203.0, 3, "train", 60), (204.0, 3, "heldout", 0)]  # 0 rows: start of a process
    log = [{"time": t, "host": "h", "pid": pid, "split": split, "rows": rows} for t, pid, split, rows in lines]
    (cache / "log" / "harvest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in log))
    facts = Story.read([write_run_on(tmp_path / "a" / "seed-0", cache)]).caches.popitem()[1]
    assert isinstance(facts, CacheFacts)
    paces = [(pace.split, pace.total, pace.seconds, pace.tokens_per_second) for pace in facts.paces]
    assert paces == [("train", 200, 4.0, 25.0), ("heldout", 260, 5.0, 2.0), ("train", 320, 3.0, 20.0)]


def test_provenance_goes_from_the_run_to_the_data(tmp_path: Path, make_cache) -> None:
    cache = make_cache()
    story = Story.read([write_run_on(tmp_path / "a" / "seed-0", cache)])
    chain = story.provenance["a/seed-0"]
    assert [link.kind for link in chain] == ["run", "cache", "model", "dataset"]
    assert chain[0].facts["commit"] == "one"
    assert chain[0].facts["fingerprint"] == story.rows[0].run.fingerprint
    assert (
        chain[1].facts["fingerprint"]
        == story.rows[0].run.cache_fingerprint
        == (cache / "COMMITTED").read_text().strip()
    )
    assert chain[2].name == "made up"


def test_provenance_of_an_imported_run_has_its_source(tmp_path: Path) -> None:
    chain = Story.read([write_imported(tmp_path / "scope" / "seed-0")]).provenance["scope/seed-0"]
    assert [link.kind for link in chain] == ["run", "source", "cache"]
    assert chain[0].facts["versions"] == "torch 2.13"
    assert chain[1].facts == {"SHA-256 of params.npz": "ab" * 32}


def test_a_missing_cache_is_reported(tmp_path: Path) -> None:
    story = Story.read([run(tmp_path, "a")])
    assert story.caches == {"c": "the cache is no longer at nowhere"}
    assert story.provenance["a/seed-0"][1].facts["now"] == "the cache is no longer at nowhere"


def test_another_cache_in_its_place_is_not_used(tmp_path: Path, make_cache) -> None:
    cache = make_cache()
    story = Story.read([run(tmp_path, "a", cache=str(cache))])
    assert "another cache is now at" in story.caches["c"]


def test_a_damaged_cache_is_reported(tmp_path: Path, make_cache) -> None:
    cache = make_cache()
    a = write_run_on(tmp_path / "a" / "seed-0", cache)
    (cache / "zarr.json").write_text((cache / "zarr.json").read_text() + " ")
    reason = Story.read([a]).caches.popitem()[1]
    assert isinstance(reason, str)
    assert "zarr.json" in reason


def test_an_undefined_figure_keeps_its_reason(tmp_path: Path) -> None:
    a = write_result(run(tmp_path, "a"), {"l0": 3.0, "explained_variance": Estimate(None, reason="nothing varies")})
    assert Story.read([a]).variants[0].mean("explained_variance") == Mean(None, why="nothing varies")
