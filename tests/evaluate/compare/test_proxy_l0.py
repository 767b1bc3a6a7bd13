"""The proxy of the right L0 over a sweep: a known minimum is found, and H23 names arms that are far from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from helpers.made_results import HOOK, write_result, write_run
from saepipe.data.cache.joint_hooks import joint_name
from saepipe.evaluate.compare.proxy_l0 import PROXY, ProxyL0, proxy_l0s
from saepipe.evaluate.compare.table import compare, read_rows
from saepipe.evaluate.compare.variant_means import by_variant
from saepipe.evaluate.compare.verdict import Verdict

OTHER_HOOK = "blocks.0.hook_resid_post"
SWEPT = {"k2": (2, 10.0), "k4": (4, 20.0), "k6": (6, 40.0), "k8": (8, 80.0)}
"""k and L0 by variant; the L0s are made up."""


def overlap(l0: float, lowest: float) -> float:
    return 0.1 + 0.02 * math.log(l0 / lowest) ** 2


def write(folder: Path, name: str, l0: float, *, lowest: float | None, seeds: int = 3, **keys: Any) -> list[Path]:
    """Writes seeds of a variant; seed n has its minimum at `lowest` (1 + n / 10). None: the proxy was not measured."""
    runs = []
    for seed in range(seeds):
        run = write_run(folder / name / f"seed-{seed}", **{"penalties": [], **keys})
        proxy = {PROXY: overlap(l0, lowest * (1 + seed / 10))} if lowest else {}
        runs.append(write_result(run, {"l0": l0, "explained_variance": 0.8 + seed / 100, **proxy}))
    return runs


def sweep(folder: Path, lowest: float | None = 30.0, points: Mapping[str, Any] = SWEPT, **keys: Any) -> list[Path]:
    d_sae = keys.pop("d_sae", 8)
    sae = {"name": "topk", "d_sae": d_sae}
    of = [
        write(folder, name, l0, lowest=lowest, sae={**sae, "k": k}, d_sae=d_sae, **keys)
        for name, (k, l0) in points.items()
    ]
    return [run for runs in of for run in runs]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sweep(tmp_path_factory.mktemp("swept"))


def proxies(runs: list[Path]) -> list[ProxyL0]:
    return list(proxy_l0s(by_variant(read_rows(runs))))


def test_the_minimum_of_each_seed_is_found(swept: list[Path]) -> None:
    (proxy,) = proxies(swept)
    assert proxy.by_seed == pytest.approx([30, 33, 36])
    assert proxy.middle == pytest.approx((30 * 33 * 36) ** (1 / 3))
    at = "decoder rows overlap least at L0 32.9 (30 to 36 over 3 seeds), a proxy of the right L0"
    assert str(proxy) == f"sweep of k2 (4 variants): {at}"


@pytest.mark.parametrize(("l0", "far"), [(20.1, False), (19.9, True), (53.9, False), (54.1, True), (32.0, False)])
def test_far_is_more_than_a_factor_beyond_all_seeds(l0: float, far: bool) -> None:
    proxy = ProxyL0("sweep", ("cache", "hook", 8), (30.0, 33.0, 36.0))
    assert proxy.is_far_from(l0) is far


def test_a_minimum_at_an_end_is_no_estimate(tmp_path: Path) -> None:
    """The lowest point is the last one, so the curve may fall beyond it."""
    (proxy,) = proxies(sweep(tmp_path, lowest=70.0))
    assert proxy.by_seed == ()
    assert "shows no right L0: it is lowest at an end of L0 10 to 80 in 3 of 3 seeds" in str(proxy)


@pytest.mark.parametrize("lowest", [None, 30.0])
def test_nothing_is_estimated_without_the_figure_or_with_two_l0s(tmp_path: Path, lowest: float | None) -> None:
    few = dict(list(SWEPT.items())[: 2 if lowest else 4])
    assert proxies(sweep(tmp_path, lowest=lowest, points=few)) == []


@pytest.mark.parametrize("keys", [{"target": "blocks.1.hook_mlp_out"}, {"hook": joint_name([HOOK, OTHER_HOOK])}])
def test_the_proxy_is_of_saes_alone(tmp_path: Path, keys: dict[str, Any]) -> None:
    assert proxies(sweep(tmp_path, **keys)) == []


def judged(folder: Path, swept: list[Path], l0s: tuple[float, float], d_sae: int = 8) -> Verdict:
    """Returns the verdict on an arm against a baseline, beside a sweep of another method."""
    base = write(folder, "base", l0s[0], lowest=None, sae={"name": "relu", "d_sae": d_sae}, d_sae=d_sae)
    arm = write(folder, "arm", l0s[1], lowest=None, sae={"name": "gated", "d_sae": d_sae}, d_sae=d_sae)
    return compare([*base, *arm, *swept], baseline=base[0]).verdicts[0]


def rules(verdict: Verdict) -> list[str]:
    return [finding.rule for finding in verdict.findings]


def test_arms_that_are_all_far_have_a_finding(tmp_path: Path, swept: list[Path]) -> None:
    verdict = judged(tmp_path, swept, (10.0, 10.2))
    (finding,) = (finding for finding in verdict.findings if finding.rule == "H23")
    assert (finding.severity, verdict.forbidden_by) == ("warning", ())
    assert finding.message.startswith("L0 is 10.2 and 10, off by a factor of more than 1.5 in all arms: sweep of k2 (4")


@pytest.mark.parametrize("l0s", [(19.9, 20.5), (20.5, 20.3), (10.0, 12.0)], ids=["one is near", "both", "unmatched"])
def test_other_arms_have_none(tmp_path: Path, swept: list[Path], l0s: tuple[float, float]) -> None:
    verdict = judged(tmp_path, swept, l0s)
    assert "H23" not in rules(verdict)


def test_a_sweep_of_two_seeds_says_nothing(tmp_path: Path, swept: list[Path]) -> None:
    verdict = judged(tmp_path, [run for run in swept if run.name != "seed-2"], (10.0, 10.2))
    assert "H23" not in rules(verdict)


def test_a_sweep_of_another_width_says_nothing(tmp_path: Path, swept: list[Path]) -> None:
    verdict = judged(tmp_path, swept, (10.0, 10.2), d_sae=16)
    assert "H23" not in rules(verdict)


def test_two_sweeps_are_far_at_their_common_l0(tmp_path: Path, swept: list[Path]) -> None:
    """The baseline's own L0, 10, is common, and the proxy of both sweeps is 30 or more."""
    keys = {"penalties": [{"name": "ortsae", "weight": 1.0}]}
    points = {f"new-{name}": (k, l0 * 0.9 if l0 == 10 else l0 * 1.1) for name, (k, l0) in SWEPT.items()}
    new = sweep(tmp_path / "new", points=points, **keys)
    table = compare([*swept, *new], baseline=swept[0])
    of_sweep = table.verdicts[-1]
    assert (of_sweep.l0, "H23" in rules(of_sweep)) == (10.0, True)
    notes = [str(note) for note in table.notes]
    assert sum("decoder rows overlap least at L0" in note and "H23" not in note for note in notes) == 2
