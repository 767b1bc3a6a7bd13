"""Findings of runs as sentences: one per rule and variant, with ranges over its seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saepipe.data.folders.finding_groups import grouped
from saepipe.data.folders.health import Finding, Health

pytestmark = pytest.mark.quick

PATTERN = "{:.0%} of the latents are dead, above 30%; add auxk"


def dead(share: float) -> Finding:
    return Finding.measured("H9", "warning", PATTERN, share)


def sentences(**findings_by_run: list[Finding]) -> list[str]:
    return [
        str(group) for group in grouped({run.replace("_", "/seed-"): each for run, each in findings_by_run.items()})
    ]


def test_seeds_share_a_sentence_with_the_range_of_their_values() -> None:
    assert sentences(l1_0=[dead(0.5)], l1_1=[dead(0.48)], l1_2=[dead(0.51)]) == [
        "l1, 3 seeds: H9 warning (degenerate SAE): 48 to 51% of the latents are dead, above 30%; add auxk"
    ]
    assert "l1, 2 seeds: H9 warning (degenerate SAE): 50% of" in sentences(l1_0=[dead(0.5)], l1_1=[dead(0.501)])[0]


def test_runs_without_the_finding_count_as_seeds() -> None:
    assert sentences(l1_0=[dead(0.5)], l1_1=[], l1_2=[dead(0.4)])[0].startswith("l1, 2 of 3 seeds: H9")
    assert sentences(l1_0=[], l1_1=[dead(0.5)])[0].startswith("l1/seed-1: H9")


def test_variants_severities_and_messages_stay_apart_and_errors_come_first() -> None:
    error, other = Finding("H1", "error", "was exactly 0", "l1"), Finding("H9", "warning", "something else")
    lines = sentences(l1_0=[dead(0.5), other], l1_1=[dead(0.6), error], topk_0=[dead(0.4)])
    assert [line.partition(" (")[0] for line in lines] == [
        "l1/seed-1: H1 error",
        "l1, 2 seeds: H9 warning",
        "l1/seed-0: H9 warning",
        "topk/seed-0: H9 warning",
    ]


def test_a_pattern_may_leave_out_what_holds_for_one_seed_only() -> None:
    twins = [Finding("H3", "error", f"equals base/seed-{seed} {{", "", (), "equals base {") for seed in range(2)]
    assert sentences(l1_0=[twins[0]], l1_1=[twins[1]]) == ["l1, 2 seeds: H3 error (same weights): equals base {"]
    assert sentences(l1_0=[twins[0]])[0].endswith("equals base/seed-0 {")


def test_several_values_and_nan() -> None:
    pattern = "L0 is {:.3g}, {:.0%} off"
    first, second = (Finding.measured("H9", "error", pattern, l0, off) for l0, off in ((9.0, 0.1), (8.0, 0.2)))
    assert sentences(l1_0=[first], l1_1=[second])[0].endswith("L0 is 8 to 9, 10 to 20% off")
    nan = Finding.measured("H9", "error", pattern, float("nan"), 0.1)
    assert (nan.message, nan.values, nan.pattern) == ("L0 is nan, 10% off", (), "")


def test_values_are_kept_on_disk_and_older_files_have_none(tmp_path: Path) -> None:
    Health((dead(0.5),)).write(tmp_path)
    (finding,) = Health.read(tmp_path).findings
    assert finding == dead(0.5)
    assert hash(finding) == hash(dead(0.5))
    plain = json.loads((tmp_path / "health.json").read_text())
    for name in ("values", "pattern"):
        del plain["findings"][0][name]
    (tmp_path / "health.json").write_text(json.dumps(plain))
    (old,) = Health.read(tmp_path).findings
    assert (old.message, old.values) == (finding.message, ())
