"""Training speed beside plain torch: ReLU + L1 on the same made-up activations, in turns, in processes of their own.

    SAEPIPE_SHARED=../shared python bench/train.py [rounds] [steps]

Ours is `train_step` as `saepipe train` calls it: unit decoder rows, projection, clipping, dead latents counted, sums
for the log, and in each round one watched step (what a line of metrics.jsonl needs). The floor is the peers' plain step
with none of these. Writes results/train.json.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import write_result

from saepipe.train.config import TrainConfig
from saepipe.train.state import Recipe, fresh_state, initial_params
from saepipe.train.step import train_step

PEERS = Path(os.environ.get("SAEPIPE_SHARED", "../shared")).resolve() / "bench_peers"
CLAIM = "ReLU + L1 trains at least as fast as plain torch without constraint, clipping and logging"
FLOOR, OURS = "raw_torch_relu_l1_fusedadam", "saepipe_relu_l1"
FIGURES = ("acts_per_s", "acts_per_cpu_s", "ms_median", "last_loss")


def make_step(data: list[torch.Tensor]) -> Callable[[int, torch.Tensor], float]:
    """One optimisation step, as the peers' harness asks for it."""
    batch, d_in = data[0].shape
    config = TrainConfig.parse(
        {
            "cache": "none",
            "sae": {"name": "relu", "d_sae": int(os.environ.get("D_SAE", "4096"))},
            "penalties": [{"name": "l1", "weight": 0.1}],
            "steps": 10_000,
            "batch_size": batch,
            "optimizer": {"lr": 3e-4, "warmup": 0},
        }
    )
    cpu = torch.device("cpu")
    recipe = Recipe(config.resolved(hook="none", num_rows=batch, device=cpu), d_in, 1.0, cpu)
    state = fresh_state(recipe, initial_params(recipe))
    warmup = int(os.environ["WARMUP"])

    def step(number: int, x: torch.Tensor) -> float:
        before = state.sums[:, 1].sum().item()
        train_step(recipe, state, x, watched=number == warmup)
        return state.sums[:, 1].sum().item() - before

    return step


def main(rounds: int, steps: int) -> None:
    settings = {"STEPS": str(steps), "WARMUP": "3", "THREADS": "2"}
    scripts = {FLOOR: [str(PEERS / "bench_raw_torch.py")], OURS: [__file__, "--ours"]}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in scripts}
    for number in range(rounds):
        for name, script in scripts.items() if number % 2 == 0 else reversed(scripts.items()):
            found[name].append(measure(name, script, settings))
            print(name, {key: found[name][-1][key] for key in FIGURES}, flush=True)
    medians = {
        name: {key: statistics.median(line[key] for line in lines) for key in FIGURES} for name, lines in found.items()
    }
    figures = {
        "ratio": {key: medians[OURS][key] / medians[FLOOR][key] for key in ("acts_per_s", "acts_per_cpu_s")},
        "median": medians,
        "settings": {"d_in": 512, "d_sae": 4096, "batch": 2048, "rounds": rounds, "steps": steps, "threads": 2},
        "rounds": found,
    }
    write_result("train", CLAIM, figures)
    print(json.dumps(figures["ratio"]))


def measure(name: str, script: list[str], settings: dict[str, str]) -> dict[str, Any]:
    """The JSON line that a script prints under `name`."""
    run = subprocess.run(
        [sys.executable, *script], env={**os.environ, **settings}, capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    return next(line for line in lines if line["name"] == name)


if __name__ == "__main__":
    if sys.argv[1:] == ["--ours"]:
        sys.path.insert(0, str(PEERS))
        import common

        common.run(OURS, make_step)
    else:
        main(*map(int, sys.argv[1:] or ("5", "20")))
