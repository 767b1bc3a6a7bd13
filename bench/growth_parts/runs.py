"""Work of training: a step by width, stacked runs, and what a run costs beside many others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from helpers.made_caches import structured_rows, write_cache
from saepipe.train.config import TrainConfig
from saepipe.train.health.log_lines import LogWatch
from saepipe.train.plan import plan_runs
from saepipe.train.run import train
from saepipe.train.step.allocator import keep_freed_memory
from saepipe.train.step.state import Recipe, fresh_state, initial_params
from saepipe.train.step.step import train_step

Act = Callable[[], object]

D_IN, BATCH, STEPS = 256, 1024, 3
CPU = torch.device("cpu")


def steps(folder: Path, d_sae: int) -> Act:
    keep_freed_memory()
    raw = {"cache": "none", "sae": {"name": "topk", "d_sae": d_sae, "k": 32}, "steps": 100, "batch_size": BATCH}
    raw |= {"sparse_steps": "always"}
    run = Recipe(TrainConfig.parse(raw).resolved(hook="none", num_rows=BATCH, device=CPU), D_IN, 1.0, CPU)
    state, x = fresh_state(run, initial_params(run)), torch.randn(BATCH, D_IN)
    train_step(run, state, x)  # makes what later steps reuse

    def act() -> None:
        for _ in range(STEPS):
            train_step(run, state, x)

    return act


def rows(folder: Path, size: int) -> None:
    """Writes a cache of random rows."""
    write_cache(folder / "cache", {"h": structured_rows(8192, 32)})


def study(folder: Path, num_runs: int, **changes: Any) -> TrainConfig:
    """Returns the config of runs that differ in their learning rate, four seeds each."""
    variants = [{"name": f"v{number}", "optimizer.lr": 1e-3 * (1 + number)} for number in range(num_runs // 4)]
    raw = {"cache": str(folder / "cache"), "sae": {"name": "relu", "d_sae": 64}, "batch_size": 256, "device": "cpu"}
    raw |= {"penalties": [{"name": "l1", "weight": 1.0}], "variants": variants, "seeds": [0, 1, 2, 3]}
    return TrainConfig.parse({**raw, "steps": 1, **changes})


def stack(folder: Path, num_runs: int) -> Act:
    config, out = study(folder, num_runs, steps=100, checkpoint_every=10**6), folder / f"runs-{os.getpid()}"
    return lambda: train(config, out)


def train_all(folder: Path, num_runs: int) -> Act:
    config, out = study(folder, num_runs), folder / f"runs-{os.getpid()}"
    return lambda: train(config, out)


def plan(folder: Path, num_runs: int) -> Act:
    config = study(folder, num_runs)
    return lambda: plan_runs(config, folder / "none")


def watch_log(folder: Path, num_lines: int) -> Act:
    """Applies the rules line by line, as training does, to a penalty without effect, one that warms up, and an auxk."""
    inert = {"name": "topk_orthogonality", "weight": 1.0}
    penalties = [{"name": "auxk"}, inert, {"name": "l1", "weight": 1.0, "warmup": 0.9}]
    raw = {"cache": "none", "sae": {"name": "topk", "d_sae": 64, "k": 8}, "penalties": penalties, "steps": num_lines}
    config = TrainConfig.parse(raw)
    nothing = {"value": 0.0, "gradient_norm": 0.0}
    names = ("auxk", "topk_orthogonality", "l1")
    terms = {"reconstruction": {"value": 1.0, "gradient_norm": 1.0}, **dict.fromkeys(names, nothing)}
    statistics = {f"topk_orthogonality/{name}": 0.0 for name in ("num_pairs", "self_share", "selected_share")}
    log = [{"step": step + 1, "dead": 0, "terms": terms, "statistics": statistics} for step in range(num_lines)]

    def act() -> None:
        watch = LogWatch(config, num_lines, config.health)
        for line in log:
            watch.add(line)
            watch.findings(ended=False)
        watch.findings(ended=True)

    return act
