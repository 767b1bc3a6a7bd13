"""Whole runs with a KL tail on the toy: what stays as it was, what is shared, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import saepipe as sp
from helpers.killed_training import KillAfter, Killed
from saepipe.data.cache.cache import Cache
from saepipe.data.config.base import fingerprint
from saepipe.data.errors import ConfigError
from saepipe.data.folders.health import Health
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.model.tail_models import TailModels, WindowsModel
from saepipe.train.config import TrainConfig
from saepipe.train.dry_run import dry_run, render
from saepipe.train.plan import plan_runs
from saepipe.train.run import _tails, train
from saepipe.train.rundir.finished_run import open_run

HOOK, STEPS, START = "blocks.2.hook_resid_post", 12, 8
TAIL = {"share": 1 / 3, "windows": 2}
SAES: dict[str, dict[str, Any]] = {
    "relu": {"sae": {"name": "relu", "d_sae": 48}, "penalties": [{"name": "l1", "weight": 0.3}]},
    "topk": {"sae": {"name": "topk", "d_sae": 48, "k": 4}, "penalties": [{"name": "auxk"}]},
    "batch_topk": {"sae": {"name": "batch_topk", "d_sae": 48, "k": 4}, "penalties": []},
    "jumprelu": {"sae": {"name": "jumprelu", "d_sae": 48}, "penalties": [{"name": "l0", "weight": 0.1}]},
    "gated": {"sae": {"name": "gated", "d_sae": 48}, "penalties": [{"name": "l1", "weight": 0.3}]},
}


def config(cache: Path, **changes: Any) -> TrainConfig:
    raw = {"cache": str(cache), "hook": HOOK, **SAES["topk"], "steps": STEPS, "batch_size": 32, "device": "cpu"}
    raw |= {"optimizer": {"lr": 3e-3}, "log_every": 3, "checkpoint_every": 4, "init": {"b_dec_rows": 200}}
    return TrainConfig.parse({**raw, "kl_tail": TAIL, "dead": {"after_tokens": 100}, **changes})


def train_here(config: TrainConfig, out: Path, **arguments: Any) -> list[Path]:
    return train(config, out, **{"open_tail_models": TailModels, **arguments})


def weights(run: Path) -> bytes:
    return (run / "sae" / "sae_weights.safetensors").read_bytes()


def lines(run: Path) -> list[dict[str, Any]]:
    every = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in every]


@pytest.mark.parametrize("sparse_steps", ["never", "always"])
def test_nothing_before_the_tail_changes(toy_cache: Path, tmp_path: Path, sparse_steps: str) -> None:
    """The last two checkpoints are of steps 4 and 8, the tail's first step is the one after the eighth."""
    variants = [{"name": "plain", "kl_tail": 0}, {"name": "tail"}]
    plain, tail = train_here(config(toy_cache, variants=variants, sparse_steps=sparse_steps), tmp_path)
    ours, theirs = (load_file(run / "checkpoints" / str(START) / "state.safetensors") for run in (tail, plain))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() - {"sums"})
    assert torch.equal(ours["sums"][:-1], theirs["sums"])
    assert weights(plain) != weights(tail)
    for line, other in zip(lines(tail), lines(plain), strict=True):
        term = line["terms"].pop("kl_tail")
        if line["step"] <= START:
            assert line == other
            assert not any(term.values())
    last = lines(tail)[-1]["terms"]
    assert last["kl_tail"]["weighted"] == pytest.approx(last["reconstruction"]["weighted"])
    assert last["kl_tail"]["gradient_norm"] > 0


@pytest.mark.parametrize("kill_after", [6, 9, 11])
def test_a_killed_run_resumes_to_the_same_bits(toy_cache: Path, tmp_path: Path, kill_after: int) -> None:
    cut = config(toy_cache, checkpoint_every=5)
    (whole,) = train_here(cut, tmp_path / "whole")
    with pytest.raises(Killed):
        train_here(cut, tmp_path / "cut", progress=KillAfter(kill_after))
    (resumed,) = train_here(cut, tmp_path / "cut", resume="must")
    assert weights(resumed) == weights(whole)
    assert lines(resumed) == lines(whole)


def test_runs_together_equal_runs_alone_and_share_the_clean_passes(
    toy_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[tuple[int, ...]] = []
    clean = WindowsModel.clean
    monkeypatch.setattr(
        WindowsModel, "clean", lambda self, numbers: (passes.append((*numbers,)), clean(self, numbers))[1]
    )
    variants = [
        {"name": "plain", "kl_tail": 0},
        {"name": "early", "kl_tail.share": 0.5},
        *({"name": name, **settings} for name, settings in SAES.items()),
    ]
    together = train_here(config(toy_cache, variants=variants), tmp_path / "together")
    assert len(passes) == len({*passes}) == 6  # steps 6 to 11, of which four are shared
    for variant, run in zip(variants, together, strict=True):
        (alone,) = train_here(config(toy_cache, variants=[variant]), tmp_path / "alone")
        assert weights(alone) == weights(run), variant
        assert lines(alone) == lines(run), variant


def test_the_tail_lowers_the_divergence(toy_cache: Path, tmp_path: Path) -> None:
    variants = [{"name": "plain", "kl_tail": 0}, {"name": "tail"}]
    settings = {"steps": 60, "checkpoint_every": 100, "optimizer": {"lr": 3e-3, "decay": 0}}
    plain, tail = train_here(config(toy_cache, variants=variants, **settings), tmp_path)
    windows = TailModels(torch.device("cpu"), Silent()).at(Cache.open(toy_cache), HOOK, None).clean(range(20))
    with torch.no_grad():
        of_plain, of_tail = (float(windows.kl(sp.load(run)(windows.x))) for run in (plain, tail))
    assert of_tail < 0.9 * of_plain


def test_a_run_without_a_tail_has_the_identity_of_earlier_versions(toy_cache: Path) -> None:
    plain, zero = (config(toy_cache, kl_tail=value) for value in ({}, 0))
    assert "kl_tail" not in zero.identity()
    assert plain.run_id("c") == zero.run_id("c") == fingerprint({"cache": "c", "config": plain.identity()})
    assert config(toy_cache).run_id("c") != zero.run_id("c")
    assert config(toy_cache, kl_tail=0.5) == config(toy_cache, kl_tail={"share": 0.5})


def test_the_public_call_brings_the_model(toy_cache: Path, tmp_path: Path) -> None:
    plain = config(toy_cache, kl_tail={"share": 0.01}, batch_size=300)
    (run,) = sp.train(plain, tmp_path, progress=Silent())
    stored = open_run(run).config.kl_tail
    assert (stored.share, stored.windows) == (0.01, 2)  # 300 tokens are two windows of 128
    assert lines(run)[-1]["terms"]["kl_tail"]["value"] > 0


def test_training_without_a_tail_imports_no_model(tiny_cache: Path, tmp_path: Path) -> None:
    raw = {"cache": str(tiny_cache), "sae": {"name": "relu", "d_sae": 8}, "steps": 2, "batch_size": 8, "device": "cpu"}
    code = f"""
import sys, saepipe
saepipe.train({raw!r}, {str(tmp_path)!r})
print([name for name in sys.modules if name.startswith(("transformers", "saepipe.evaluate", "saepipe.harvest"))])
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_rank_may_have_no_run_in_some_streams(toy_cache: Path, tmp_path: Path) -> None:
    """Under torchrun, the runs of a stream may all be other ranks'."""
    planned = plan_runs(config(toy_cache), tmp_path)
    nothing, windows = _tails([[], planned], TailModels, Silent())
    assert nothing is None
    assert windows is not None
    assert _tails([[], []], None, Silent()) == [None, None]


def test_a_call_without_models_is_refused_before_any_run_begins(toy_cache: Path, tmp_path: Path) -> None:
    for call in (train, partial(sp.train, open_tail_models=None, progress=Silent())):
        with pytest.raises(ConfigError, match="kl_tail needs the language model"):
            call(config(toy_cache), tmp_path)
    assert not list(tmp_path.glob("*/*/metrics.jsonl"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hook": None, "hooks": ["blocks.1.hook_resid_post", HOOK]}, "a crosscoder has no kl_tail"),
        ({"compile": "inductor"}, "kl_tail needs compile: never"),
        ({"kl_tail": {"weight": 2}}, "no effect with share 0"),
        ({"kl_tail": 1.5}, "must be at most 1"),
        ({"kl_tail": True}, "true is neither a number"),
        ({"kl_tail": {"share": 0.1, "weight": 0}}, "greater than 0"),
    ],
)
def test_what_cannot_work_is_refused(toy_cache: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(toy_cache, **changes)


def test_a_weight_without_effect_is_found(toy_cache: Path, tmp_path: Path) -> None:
    variants = [{"name": f"weight {weight}", "kl_tail.weight": weight} for weight in (1e-9, 1e-4, 1e2)]
    runs = train_here(config(toy_cache, variants=variants, log_every=1), tmp_path)
    inert, weak, strong = ([f for f in Health.read(run).findings if f.about == "kl_tail"] for run in runs)
    assert [(finding.rule, finding.severity) for finding in weak] == [("H1", "warning")]
    assert "too weak to matter" in weak[0].message
    assert [(finding.rule, finding.severity) for finding in inert] == [("H1", "error")]
    assert "in 4 of 4 checks (steps 9 to 12)" in inert[0].message
    assert not strong


def test_the_dry_run_says_what_the_tail_costs(toy_cache: Path) -> None:
    plan = dry_run(config(toy_cache, variants=[{"name": "plain", "kl_tail": 0}, {"name": "tail"}]), seconds=0)
    assert [(cost.tail_steps, cost.tail_tokens) for cost in plan.runs] == [(0, 0), (4, 4 * 2 * 128)]
    assert any("1 of 2 runs put 1,024 tokens through the language model" in str(part) for part in render(plan))
