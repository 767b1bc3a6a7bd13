"""Both studies on a small cache: as written each is reported by health rules; corrected, each penalty has an effect."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from helpers.repository import CONFIGS
from saepipe.cli import main
from saepipe.data.errors import ConfigError
from saepipe.data.folders.health import Finding, Health, errors
from saepipe.evaluate.compare.table import compare
from saepipe.train.config import TrainConfig
from saepipe.train.health.log_lines import check_log
from saepipe.train.run import train
from saepipe.train.variants import expand

CODED = str(CONFIGS / "study_as_coded.py")
HOOK = "blocks.1.hook_resid_post"
SMALL = {"hook": HOOK, "steps": 150, "batch_size": 64, "device": "cpu", "log_every": 10, "tokens": None, "seed": 0}


def small(name: str, cache: Path, *, d_sae: int = 40, **changes: Any) -> TrainConfig:
    """Returns a study's config on the small cache; `variant` keeps one variant, without its number of tokens."""
    raw = yaml.safe_load((CONFIGS / f"study-{name}.yaml").read_text()) | SMALL | {"cache": str(cache), "seeds": []}
    raw["sae"]["d_sae"] = d_sae
    raw["optimizer"] |= {"lr": 1e-2}
    if "plugins" in raw:
        raw["plugins"] = [CODED]
    if variant := changes.pop("variant", None):
        (kept,) = (entry for entry in raw["variants"] if entry["name"] == variant)
        raw["variants"] = [{key: value for key, value in kept.items() if key != "tokens"}]
    # Settings that depend on the density of latents and on the number of tokens.
    adjusted = {"l0_target": {"l0": 4.0}, "l0": {"target": 4.0}, "rate_floor": {"p_min": 0.1}}
    adjusted["absorption"] = {"min_firings": 10}
    keys = ("penalties.0", "penalties.1")
    replaced = [entry[key] for entry in raw["variants"] for key in keys if key in entry]
    for penalty in [*raw["penalties"], *replaced]:
        penalty |= adjusted.get(penalty["name"], {})
    return TrainConfig.parse(raw | changes)


def findings(runs: list[Path]) -> dict[str, dict[str, list[Finding]]]:
    """Returns findings by variant and rule, without H9, since 150 steps do not make a good SAE."""
    by_variant: dict[str, dict[str, list[Finding]]] = {}
    for run in runs:
        by_rule = by_variant.setdefault(run.parent.name, defaultdict(list))
        for finding in Health.read(run).findings:
            if finding.rule != "H9":
                by_rule[finding.rule].append(finding)
    return by_variant


@pytest.mark.parametrize(("variant", "rho"), [("rho-5", "5"), ("rho-10", "10"), ("rho-20", "20"), ("tau-0.9", "5")])
def test_study_a_as_described_is_a_config_error(tiny_cache: Path, variant: str, rho: str) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"H4 \(unreachable threshold\): rho = {rho} can never be exceeded: ratio 'conditional' is a probability",
    ):
        expand(small("absorption", tiny_cache, variant=variant))


def test_study_a_as_described_ends_with_exit_code_2(
    tiny_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "-c", str(CONFIGS / "study-absorption.yaml"), "--cache", str(tiny_cache)]
    assert main([*arguments, "--set", f"hook={HOOK}", "--out", str(tmp_path / "runs")]) == 2
    assert "H4 (unreachable threshold): rho = 5 can never be exceeded" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_study_a_as_coded_is_the_baseline_bit_by_bit(tiny_cache: Path, tmp_path: Path) -> None:
    runs = train(small("absorption-as-coded", tiny_cache, d_sae=24), tmp_path)
    by_variant = findings(runs)
    assert len(by_variant) == 8
    assert not by_variant.pop("baseline")
    for variant, by_rule in by_variant.items():
        assert by_rule.keys() == {"H15", "H1", "H2", "H3"}, variant
        assert "absorption_as_coded has no gradient" in by_rule["H15"][0].message
        assert "absorption_as_coded was exactly 0 in 16 of 16 checks" in by_rule["H1"][0].message
        assert (
            "bit-identical to baseline/seed-0's, although the configs differ in penalties.1.name"
            in by_rule["H2"][0].message
        )
        assert "W_dec equals baseline/seed-0's (relative difference 0)" in by_rule["H3"][0].message
    for verdict in compare(runs, baseline=runs[0]).verdicts:
        assert {"H1", "H2", "H3", "H15"} <= {finding.rule for finding in verdict.forbidden_by}
        assert "NO RESULT" in str(verdict)


def test_study_a_as_coded_is_not_trained_under_strict(
    tiny_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "coded.yaml"
    config.write_text(small("absorption-as-coded", tiny_cache, d_sae=24, variant="rho-5").to_yaml())
    assert main(["train", "-c", str(config), "--out", str(tmp_path / "runs"), "--strict"]) == 8
    assert "H15 error (no gradient)" in capsys.readouterr().err
    assert not list(tmp_path.rglob("COMMITTED"))
    assert not (tmp_path / "runs" / "rho-5" / "seed-0" / "metrics.jsonl").read_text()


def test_study_a_corrected_has_an_effect(tiny_cache: Path, tmp_path: Path) -> None:
    assert_effective(train(small("absorption-corrected", tiny_cache), tmp_path), num_variants=6)


def test_study_b_as_written_ends_with_exit_code_2(
    tiny_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "-c", str(CONFIGS / "study-topk-orthogonality.yaml"), "--cache", str(tiny_cache)]
    sets = ["--set", f"hook={HOOK}", "--set", f"plugins=[{CODED}]"]
    assert main([*arguments, *sets, "--out", str(tmp_path / "runs")]) == 2
    assert (
        "H6 (missing steps): 1000 tokens are less than one batch of 2048, so there would be zero steps"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        (
            "run-3-linear",
            "the schedule of token_topk_as_coded.weight ends at step 10,000",
        ),
        (
            "run-4-dynamic",
            "the schedule of token_topk_as_coded.fraction ends at step 10,000",
        ),
    ],
)
def test_study_b_has_schedules_longer_than_the_run(tiny_cache: Path, tmp_path: Path, variant: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"H19 .*: {words}"):
        train(small("topk-orthogonality", tiny_cache, variant=variant, steps=4882), tmp_path)


@pytest.mark.parametrize(
    ("variant", "rule", "words"),
    [
        ("run-1-fixed", "H5", "of the pairs that token_topk_as_coded selects pair a latent with itself"),
        ("run-2-adaptive", "H5", "of the pairs that token_topk_as_coded selects pair a latent with itself"),
        ("run-5-all-pairs", "H5", "of the pairs that token_orthogonality_as_coded selects pair a latent with itself"),
        ("run-6-importance", "H15", "l0_as_coded has no gradient"),
        ("run-7-competition", "H15", "l0_as_coded has no gradient"),
    ],
)
def test_study_b_with_enough_tokens_is_reported(
    tiny_cache: Path, tmp_path: Path, variant: str, rule: str, words: str
) -> None:
    by_rule = findings(train(small("topk-orthogonality", tiny_cache, variant=variant), tmp_path))[variant]
    assert words in by_rule[rule][0].message
    assert errors(by_rule[rule])


def test_study_b_corrected_has_an_effect(tiny_cache: Path, tmp_path: Path) -> None:
    runs = train(small("topk-orthogonality-corrected", tiny_cache), tmp_path)
    assert_effective(runs, num_variants=13)
    last_lines = {run.parent.name: json.loads((run / "metrics.jsonl").read_text().splitlines()[-2]) for run in runs}
    first_line = json.loads((runs[-2] / "metrics.jsonl").read_text().splitlines()[0])
    assert last_lines["run-6-dropout"]["statistics"]["latent_dropout/dropped_share"] == pytest.approx(0.1, abs=0.05)
    assert first_line["statistics"]["inhibition/lost_share"] > 0.01


def assert_effective(runs: list[Path], num_variants: int) -> None:
    """Asserts that no rule but H9 has findings, the schedules fit the full run, and each penalty's gradient counts."""
    by_variant = findings(runs)
    assert len(by_variant) == num_variants
    assert not {variant: rules for variant, rules in by_variant.items() if rules}
    for run in runs:
        config = TrainConfig.load(run / "config.yaml")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert check_log(config, 150, lines, config.health, ended=True) == []
        middle = lines[len(lines) // 2]
        for label, term in middle["terms"].items():
            assert term["gradient_share"] > 1e-3 or term["weighted"] == 0, (run.parent.name, label)


@pytest.mark.parametrize("study", ["absorption-corrected", "topk-orthogonality-corrected"])
def test_the_corrected_studies_fit_their_full_run(study: str) -> None:
    config = TrainConfig.load(CONFIGS / f"study-{study}.yaml")
    for variant in expand(config):
        resolved = variant.config.resolved(hook=HOOK, num_rows=10_000_000, device=torch.device("cpu"))
        assert resolved.steps == 4882
