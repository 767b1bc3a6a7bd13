"""The rules as functions: thresholds, exceptions, and formulas compared with plain ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saepipe.data.cache.cache import Cache
from saepipe.data.errors import CorruptDataError, HealthError
from saepipe.data.folders.health import Finding, Health, errors, unusable
from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.health.degenerate import Behaviour, check_behaviour, check_l0, measure_behaviour, sample_rows
from saepipe.train.health.dry_step import dry_step, separate_parts
from saepipe.train.health.log_lines import LogWatch, audit, check_log, weight_at
from saepipe.train.health.twins import Twin, check_twins
from saepipe.train.health_config import HealthConfig
from saepipe.train.plan import plan_runs
from saepipe.train.run import train
from saepipe.train.sae.relu import ReLU
from saepipe.train.step.state import fresh_state, initial_params

Make = Callable[..., TrainConfig]
LIMITS = HealthConfig()
PENALTY = {"name": "topk_orthogonality", "weight": 1.0}


def lines(shares: list[float], statistics: dict[str, list[float]] | None = None, every: int = 10) -> list[dict]:
    """Returns a log in which a penalty's gradient has these shares of the reconstruction's; 0 means a value of 0."""
    return [
        {
            "step": (number + 1) * every,
            "dead": 0,
            "terms": {
                "reconstruction": {"value": 1.0, "gradient_norm": 2.0},
                "topk_orthogonality": {"value": float(share > 0), "gradient_norm": 2.0 * share},
            },
            "statistics": {f"topk_orthogonality/{name}": values[number] for name, values in (statistics or {}).items()},
        }
        for number, share in enumerate(shares)
    ]


def judged(config: TrainConfig, log: list[dict], *, ended: bool = True, num_steps: int = 200) -> list[tuple[str, str]]:
    return [(finding.rule, finding.severity) for finding in check_log(config, num_steps, log, LIMITS, ended=ended)]


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([0.1] * 20, []),
        ([0.0] * 20, [("H1", "error")]),
        ([1e-7] * 20, [("H1", "error")]),
        ([0.0] * 2, [("H1", "error")]),  # all checks of the run
        ([0.1] * 15 + [0.0] * 5, [("H1", "warning")]),
        ([0.1] * 5 + [0.0] * 15, [("H1", "error")]),
        ([0.1, 0.1, 0.0, 0.0] * 5, []),  # never four in a row
        ([5e-4] * 20, [("H1", "warning")]),
        ([9.0] * 20, []),
        ([11.0] * 20, [("H1", "warning")]),
    ],
)
def test_h1_thresholds(config: Make, shares: list[float], expected: list[tuple[str, str]]) -> None:
    assert judged(config(penalties=[PENALTY]), lines(shares)) == expected


def test_h1_is_reported_before_the_end_of_the_run(config: Make) -> None:
    trained = config(penalties=[PENALTY])
    assert judged(trained, lines([0.0] * 3), ended=False) == []
    assert judged(trained, lines([0.0] * 4), ended=False) == [("H1", "error")]
    assert judged(trained, lines([0.0] * 4), ended=False, num_steps=2000) == []  # not yet a twentieth of the run
    assert judged(trained, lines([0.1] * 4), ended=False) == []


def test_h1_ignores_a_weight_of_0_and_the_warmup(config: Make) -> None:
    inert = lines([0.0] * 20)
    assert judged(config(penalties=[{**PENALTY, "weight": 0.0}]), inert) == []
    warm = lines([0.0] * 10 + [0.1] * 10)
    assert judged(config(penalties=[{**PENALTY, "warmup": 0.5}]), warm) == []
    (line,) = lines([0.0], every=110)
    for sampled, expected in ((106, []), (107, [("H1", "error")])):
        assert judged(config(penalties=[{**PENALTY, "warmup": 0.53}]), [{**line, "gradients_at": sampled}]) == expected
    later = {**PENALTY, "weight": {"start": 0.0, "end": 1.0, "begin": 0.5}}
    assert judged(config(penalties=[later]), warm) == []


def test_h1_tells_a_penalty_that_is_about_a_frozen_part_alone(config: Make) -> None:
    def judge(shares: list[float], values: list[float]) -> list[tuple[str, str]]:
        log = lines(shares)
        for line, value in zip(log, values, strict=True):
            line["terms"]["topk_orthogonality"]["value"] = value
        return judged(config(penalties=[PENALTY], freeze="decoder"), log)

    assert judge([0.0] * 20, [0.3] * 20) == [("H1", "warning")]
    assert judge([0.0] * 20, [0.0] * 20) == [("H1", "error")]  # it selects nothing, frozen or not
    assert judge([0.1] * 20, [0.3] * 20) == []


def test_h1_is_only_a_warning_for_a_penalty_that_may_rest(config: Make) -> None:
    def log(shares: list[float], dead: int = 3) -> list[dict]:
        return [
            {**line, "dead": dead, "terms": {**line["terms"], "auxk": line["terms"]["topk_orthogonality"]}}
            for line in lines(shares)
        ]

    trained = config(sae={"name": "topk", "d_sae": 40, "k": 4}, penalties=[{"name": "auxk"}])
    assert judged(trained, log([0.0] * 20)) == [("H1", "warning")]
    assert judged(trained, log([0.0] * 5 + [0.1] * 15)) == []
    assert judged(trained, log([0.0] * 20, dead=0)) == []  # no latent died, so there was nothing to revive
    assert judged(trained, log([1e-7] * 20, dead=0)) == [("H1", "warning")]  # it acts, but in vain
    assert judged(trained, log([0.0] * 15 + [0.1] * 5, dead=0)) == []


def test_weight_at_a_step(config: Make) -> None:
    (moving,) = config(penalties=[{**PENALTY, "warmup": 0.1, "weight": {"start": 2.0, "end": 1.0}}]).penalties
    assert weight_at(moving, 10, 100) == 0.0
    assert weight_at(moving, 11, 100) == pytest.approx(2.0 - 10 / 99)
    assert weight_at(moving, 100, 100) == 1.0
    (steered,) = config(penalties=[{"name": "l0_target", "l0": 4, "weight": 3.0}]).penalties
    assert weight_at(steered, 1, 100) == 3.0


@pytest.mark.parametrize(
    ("statistics", "expected"),
    [
        ({"num_pairs": 5.0, "self_share": 0.0, "selected_share": 0.1}, []),
        ({"num_pairs": 5.0, "self_share": 0.01}, [("H5", "error")]),
        ({"num_pairs": 0.0}, [("H5", "error")]),
        ({"selected_share": 0.0}, [("H4", "warning")]),
        ({"selected_share": 0.9}, []),  # it has no rho that most pairs could pass
    ],
)
def test_h4_and_h5_by_gate_statistics(
    config: Make, statistics: dict[str, float], expected: list[tuple[str, str]]
) -> None:
    log = lines([0.1] * 8, {name: [value] * 8 for name, value in statistics.items()})
    assert judged(config(penalties=[PENALTY]), log) == expected


def test_the_audit_summarises_a_gate(config: Make) -> None:
    log = lines([0.1] * 3, {"cos_in": [0.5, 0.1, 0.3]})
    assert audit(config(penalties=[PENALTY]), log) == {
        "topk_orthogonality": {"cos_in": {"least": 0.1, "median": 0.3, "most": 0.5, "last": 0.3}}
    }


def test_h2_and_h3_name_the_first_twin_and_count_the_others() -> None:
    evidence = {"reconstruction": {}, "final_reconstruction": 1.5, "W_dec": "d", "W_dec_entries": [1.0]}
    twins = [
        Twin(f"r/{rho}", {"penalties": [{"name": "absorption", "rho": rho, "weight": 1}]}, evidence) for rho in range(4)
    ]
    h2, h3 = check_twins(twins[0], twins[1:], LIMITS)
    assert (h2.rule, h3.rule) == ("H2", "H3")
    assert "bit-identical to r/1's, although the configs differ in penalties.0.rho: 1 -> 0" in h2.message
    assert h2.message.endswith("(the same holds for 2 more)")
    without = Twin("r/none", {"penalties": []}, evidence)
    (message, _) = (finding.message for finding in check_twins(twins[0], [without], LIMITS))
    assert "differ in penalties: [] -> '(absent)'; penalties.0.name: '(absent)' -> 'absorption'; the diff" in message
    off = Twin("r/off", {"penalties": [{"name": "absorption", "weight": 0}]}, evidence)
    assert check_twins(off, [without], LIMITS) == []


def test_behaviour_against_plain_formulas() -> None:
    rng = torch.Generator().manual_seed(0)
    params = ReLU(d_sae=40).init(24, 1.0, rng)
    x = torch.randn(300, 24, generator=rng) + 1
    acts = ((x - params["b_dec"]) @ params["W_enc"] + params["b_enc"]).relu()
    x_hat = acts @ params["W_dec"] + params["b_dec"]
    measured = measure_behaviour(ReLU(d_sae=40), params, x.split(70), dense_rate=0.5)
    assert measured.num_tokens == 300
    assert measured.l0 == pytest.approx((acts > 0).sum(1).double().mean().item())
    assert measured.alive == pytest.approx((acts > 0).any(0).double().mean().item())
    assert measured.dense == pytest.approx(((acts > 0).double().mean(0) > 0.5).double().mean().item())
    error, variation = (x - x_hat).square().sum(), (x - x.mean(0)).square().sum()
    assert measured.explained_variance == pytest.approx(1 - (error / variation).item(), rel=1e-5)
    assert measured.l2_ratio == pytest.approx((x_hat.norm(dim=1) / x.norm(dim=1)).mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "severity"),
    [
        ({}, None),
        ({"l0": 0.9}, "error"),
        ({"l0": 26.0}, "error"),
        ({"alive": 0.09}, "error"),
        ({"explained_variance": 0.19}, "error"),
        ({"explained_variance": float("nan")}, "error"),
        ({"dense": 0.02}, "warning"),
        ({"l2_ratio": 0.84}, "warning"),
        ({"l2_ratio": 1.11}, "warning"),
    ],
)
def test_h9_thresholds(change: dict[str, float], severity: str | None) -> None:
    behaviour = Behaviour(9, l0=10.0, alive=0.9, dense=0.0, explained_variance=0.8, l2_ratio=1.0)
    behaviour = replace(behaviour, **change)
    findings = check_behaviour(behaviour, d_sae=100, dead=0.2, l0_target=None, limits=LIMITS)
    assert [finding.severity for finding in findings] == ([severity] if severity else [])
    assert [f.severity for f in check_behaviour(behaviour, 100, 0.31, None, LIMITS)][-1] == "warning"


def test_h9_for_a_steered_l0() -> None:
    assert check_l0(10.4, 10, LIMITS) == []
    assert [finding.severity for finding in check_l0(9.3, 10, LIMITS)] == ["warning"]
    assert [finding.severity for finding in check_l0(13.0, 10, LIMITS)] == ["error"]


def test_h9_uses_heldout_tokens_if_there_are_any(toy_cache: Path, tiny_cache: Path) -> None:
    cache, hook = Cache.open(toy_cache), "blocks.1.hook_resid_post"
    rows = torch.cat(list(sample_rows(cache, [hook], 10**9)))
    assert len(rows) == cache.heldout.keep.sum()
    everything = cache.heldout.activations(hook, 0, len(cache.heldout.contexts))
    assert torch.equal(rows, everything[torch.from_numpy(cache.heldout.keep)])
    assert sum(map(len, sample_rows(cache, [hook], 1500))) == 1500
    assert sum(map(len, sample_rows(Cache.open(tiny_cache), [hook], 3000))) == 3000


def test_the_dry_step_changes_nothing(config: Make, tmp_path: Path, tiny_cache: Path) -> None:
    both = config(penalties=[{"name": "l1", "weight": 0.3}, PENALTY], transforms=[{"name": "latent_dropout"}])
    (run,) = plan_runs(both, tmp_path)
    state = fresh_state(run.recipe, initial_params(run.recipe))
    before = {name: value.clone() for name, value in state.params.items()}
    generator = torch.get_rng_state()
    rows = next(sample_rows(run.cache, run.recipe.config.read_hooks, 34))
    assert dry_step(run.recipe, state, rows.split(17)) == []
    assert all(torch.equal(before[name], value) for name, value in state.params.items())
    assert (state.step, state.num_summed) == (0, 0)
    assert torch.equal(generator, torch.get_rng_state())
    names = ["architecture relu", "penalty l1", "penalty topk_orthogonality", "transform latent_dropout"]
    assert [name for name, _ in separate_parts(run.recipe.config)] == names


def test_strict_stops_a_run_at_its_first_error(config: Make, tmp_path: Path) -> None:
    variants = [{"name": "sound", "penalties": []}, {"name": "inert", "penalties": [{**PENALTY, "tau": 0.999}]}]
    study = config(variants=variants, steps=200, log_every=5, health={"most_l0": 1.0, "least_variance": -1e9})
    progress = Silent()
    with pytest.raises(HealthError, match=r"1 of 2 runs failed:\n.*inert/seed-0: H1 error"):
        train(study, tmp_path / "strict", strict=True, progress=progress)
    assert sum("H1 error" in line for line in progress.said) == 1
    inert = tmp_path / "strict" / "inert" / "seed-0"
    assert not (inert / "COMMITTED").exists()
    assert json.loads((inert / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 15
    assert [finding.rule for finding in Health.read(inert).findings] == ["H1"]
    assert (tmp_path / "strict" / "sound" / "seed-0" / "COMMITTED").exists()

    progress = Silent()
    runs = train(study, tmp_path / "free", progress=progress)
    assert {"H1", "H2", "H3"} <= {finding.rule for finding in errors(Health.read(runs[1]).findings)}
    assert progress.said[-1].startswith("1 OF 2 RUNS CANNOT SHOW WHAT THEY WERE MADE TO SHOW:")
    assert sum("H1 error" in line for line in progress.said[:-1]) == 1


def test_thresholds_do_not_change_the_run_id(config: Make) -> None:
    strict = config(health={"inert_checks": 2})
    assert strict.run_id("c") == config().run_id("c")
    assert strict.health.inert_checks == 2


def test_health_on_disk(tmp_path: Path) -> None:
    finding = Finding("H7", "error", "the loss is not finite", "l1")
    health = Health((finding, Finding("H9", "warning", "dead")), {"l1": {}}, {"W_dec": "d"})
    health.write(tmp_path)
    assert Health.read(tmp_path) == health
    assert str(finding) == "H7 error (not finite): the loss is not finite"
    assert unusable(health.findings) == errors(health.findings) == [finding]
    (tmp_path / "health.json").write_text("[]")
    with pytest.raises(CorruptDataError, match="is missing or malformed"):
        Health.read(tmp_path)


class CountedLine(dict[str, Any]):
    """A line of a log that counts how often its terms are read."""

    reads = 0

    def __getitem__(self, key: str) -> Any:
        CountedLine.reads += key == "terms"
        return super().__getitem__(key)


def test_each_line_of_a_growing_log_is_read_once(config: Make) -> None:
    """Whatever the rules find on the way: here a penalty that is inert from its warm-up on."""
    trained = config(penalties=[{**PENALTY, "warmup": 0.5}])
    log = [CountedLine(line) for line in lines([0.1] * 4 + [0.0] * 16)]
    CountedLine.reads, watch = 0, LogWatch(trained, 200, LIMITS)
    for number, line in enumerate(log, 1):
        watch.add(line)
        assert watch.findings(ended=False) == check_log(
            trained, 200, [dict(each) for each in log[:number]], LIMITS, ended=False
        )
    assert watch.findings(ended=True) == check_log(trained, 200, [dict(each) for each in log], LIMITS, ended=True) != []
    assert CountedLine.reads <= 2 * len(log)
