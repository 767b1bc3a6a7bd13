"""`saepipe validate --world synthbench-v2`, end to end at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import stats

from helpers.tiny_synthbench import TINY
from saepipe.cli import main
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.validate import synthbench_run
from saepipe.evaluate.validate.config import SynthBenchConfig
from saepipe.evaluate.validate.synthbench_rows import SIZES
from saepipe.evaluate.validate.synthbench_run import compared_row, validate_synthbench, wanted_rows
from saepipe.evaluate.validate.synthbench_table import KEYS


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "cpu", TINY)


def test_the_command_says_its_size_and_keeps_what_it_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["validate", "ortsae", "--world", "synthbench-v2", "--set", "num_seeds=2", "--out", str(tmp_path)]
    assert main([*command, "--format", "json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["size"] == "cpu"
    assert "80 features in 12 dimensions, 16 latents at L0 3, 200 samples, 2 seeds" in result["world"]
    assert "no result of SynthSAEBench, which has 16,384 features" in result["notes"][0]
    names = ["batch_topk", "batch_topk + ortsae", "batch_topk + ortsae, random pairs"]
    assert [row["name"] for row in result["rows"]] == names
    monkeypatch.setattr(synthbench_run, "train_on_world", None)  # a second call trains nothing
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in (*names, "size cpu", "no result of SynthSAEBench"))


def test_alone_it_compares_the_published_saes(tmp_path: Path) -> None:
    table = validate_synthbench([], SynthBenchConfig(num_seeds=2, device="cpu"), tmp_path, progress=Silent())
    published = ["batch_topk", "l1", "matryoshka", "jumprelu", "matching_pursuit"]
    assert [row.name for row in table.rows] == published
    assert [row.verdict == "" for row in table.rows] == [True, False, False, False, False]
    assert table.rows[-1].means["l0"].value == pytest.approx(3, abs=0.1)


def test_differences_are_paired_by_seed() -> None:
    f1s = {"batch_topk": [0.6, 0.7, 0.5], "ours": [0.65, 0.78, 0.52], "ours, random pairs": [0.66, 0.71, 0.55]}
    values = {name: [dict.fromkeys(KEYS, 1.0) | {"f1": f1} for f1 in seeds] for name, seeds in f1s.items()}
    row = compared_row("ours", values)
    for estimate, other in ((row.from_baseline["f1"], "batch_topk"), (row.from_random["f1"], "ours, random pairs")):
        test = stats.ttest_rel(f1s["ours"], f1s[other]).confidence_interval(0.95)
        assert (estimate.low, estimate.high) == pytest.approx((test.low, test.high))
    assert row.means["f1"].value == pytest.approx(0.65)
    baseline, placebo = compared_row("batch_topk", values), compared_row("ours, random pairs", values)
    assert baseline.from_baseline == baseline.from_random == placebo.from_random == {}
    assert placebo.from_baseline["f1"].value == pytest.approx(0.04)


def test_the_placebo_has_the_weight_and_at_most_as_many_pairs() -> None:
    rows = wanted_rows(["balance", "preact"], TINY)
    assert [*rows] == [
        "batch_topk",
        "batch_topk + balance",
        "batch_topk + balance, random pairs",
        "batch_topk + preact",
    ]
    auxk, random = rows["batch_topk + balance, random pairs"]["penalties"]
    assert (auxk["name"], random["name"], random["weight"], random["pairs_per_latent"]) == (
        "auxk",
        "random_pairs",
        1,
        4,
    )


@pytest.mark.parametrize("name", ["tanh", "gated", "auxk"])
def test_what_no_batch_topk_can_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: on this world penalties are added to a batch_topk"):
        wanted_rows([name], TINY)


def test_all_means_all_that_it_can_have() -> None:
    rows = wanted_rows(["all"], TINY)
    assert "batch_topk + orthogonality/hinge" in rows
    assert not any("tanh" in name or "auxk" in name for name in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no penalty is named"),
        (["ortsae", "--cache", "cache"], "--cache writes tokens of a benchmark's world"),
        (["--world", "synthbench-v2", "--page", "page.md"], "--page rewrites the table of the small worlds"),
        (["--world", "synthbench-v2", "--set", "steps=3"], "unknown key 'steps'"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", *arguments]) == 2
    assert message in capsys.readouterr().err
