"""Training speed beside plain torch and the peers: the same made-up activations, in turns, in processes of their own.

    SAEPIPE_SHARED=../shared python bench/train.py [--rounds 5] [--steps 50] [--peers-python PYTHON]

Ours is `train_step` as `saepipe train` calls it: unit decoder rows, projection, clipping, dead latents counted, sums
for the log, and in each round one watched step (what a line of metrics.jsonl needs; a run has one in 100). The floor
is the peers' plain step with none of these. With --peers-python, an interpreter that has them, SAELens,
dictionary_learning and sparsify take their turns too, each as its own trainer steps. Writes results/train.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from record import write_result

from saepipe.train.config import TrainConfig
from saepipe.train.state import Recipe, fresh_state, initial_params
from saepipe.train.step import train_step

PEERS = Path(os.environ.get("SAEPIPE_SHARED", "../shared")).resolve() / "bench_peers"
CLAIM = "ReLU + L1 trains at least as fast as plain torch without constraint, clipping and logging"
FLOOR, RELU, TOPK = "raw_torch_relu_l1_fusedadam", "saepipe_relu_l1", "saepipe_topk_auxk"
FIGURES = ("acts_per_s", "acts_per_cpu_s", "ms_median")
ARCHITECTURES = {
    RELU: {"sae": {"name": "relu"}, "penalties": [{"name": "l1", "weight": 0.1}]},
    TOPK: {"sae": {"name": "topk", "k": 32}, "penalties": [{"name": "auxk"}]},
}


@dataclass(frozen=True)
class Contender:
    """A script that prints a JSON line under each of its names."""

    python: str
    script: tuple[str, ...]
    names: tuple[str, ...]


def contenders(peers_python: str | None) -> list[Contender]:
    here = sys.executable
    ours = [Contender(here, (__file__, "--ours", name), (name,)) for name in ARCHITECTURES]
    floor = Contender(here, (str(PEERS / "bench_raw_torch.py"),), (FLOOR,))
    if peers_python is None:
        return [floor, *ours]

    def peer(file: str, *arguments: str, names: tuple[str, ...]) -> Contender:
        return Contender(peers_python, (str(PEERS / file), *arguments), names)

    dictionary_learning = ("dictionary_learning.StandardTrainer", "dictionary_learning.TopKTrainer")
    saelens = ("SAELens.StandardTrainingSAE", "SAELens.TopKTrainingSAE")
    return [
        floor,
        *ours,
        peer("bench_dictionary_learning.py", "standard", "topk", names=dictionary_learning),
        peer("bench_saelens.py", "standard", "topk", names=saelens),
        peer("bench_sparsify.py", "signum", names=("sparsify.SparseCoder.signum",)),
    ]


def make_step(name: str, data: Sequence[torch.Tensor]) -> Callable[[int, torch.Tensor], float]:
    """One optimisation step of ours, as the peers' harness asks for it."""
    batch, d_in = data[0].shape
    settings = ARCHITECTURES[name]
    raw = {**settings, "sae": {**settings["sae"], "d_sae": int(os.environ.get("D_SAE", "4096"))}}
    raw |= {"cache": "none", "steps": 10_000, "batch_size": batch, "optimizer": {"lr": 3e-4, "warmup": 0}}
    cpu = torch.device("cpu")
    config = TrainConfig.parse(raw).resolved(hook="none", num_rows=batch, device=cpu)
    recipe = Recipe(config, d_in, 1.0, cpu)
    state = fresh_state(recipe, initial_params(recipe))
    warmup = int(os.environ["WARMUP"])

    def step(number: int, x: torch.Tensor) -> float:
        before = state.sums[:, 1].sum().item()
        train_step(recipe, state, x, watched=number == warmup)
        return state.sums[:, 1].sum().item() - before

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--peers-python", help="an interpreter that has sae-lens, dictionary-learning, eai-sparsify")
    parser.add_argument("--ours", choices=ARCHITECTURES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ours:
        sys.path.insert(0, str(PEERS))
        import common

        common.run(asked.ours, lambda data: make_step(asked.ours, data))
        return
    found = take_turns(contenders(asked.peers_python), asked.rounds, asked.steps)
    medians = {name: {key: statistics.median(line[key] for line in lines) for key in FIGURES} for name, lines in found}
    to_floor = {name: figures["acts_per_cpu_s"] / medians[FLOOR]["acts_per_cpu_s"] for name, figures in medians.items()}
    to_floor_wall = {name: figures["acts_per_s"] / medians[FLOOR]["acts_per_s"] for name, figures in medians.items()}
    shape = {"d_in": 512, "d_sae": 4096, "batch": 2048, "k": 32, "threads": 2}
    figures = {
        "times the floor": {"per CPU-second": to_floor, "wall": to_floor_wall},
        "median": medians,
        "settings": {**shape, "rounds": asked.rounds, "steps": asked.steps},
        "rounds": dict(found),
    }
    write_result("train", CLAIM, figures)
    for name in medians:
        line = (
            f"{medians[name]['acts_per_s']:8,.0f} acts/s   {to_floor_wall[name]:.2f}x wall   {to_floor[name]:.2f}x CPU"
        )
        print(f"{name:40} {line}")


def take_turns(entries: Sequence[Contender], rounds: int, steps: int) -> list[tuple[str, list[dict[str, Any]]]]:
    """What each printed in each round, by name; every other round goes in the opposite order."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for entry in entries for name in entry.names}
    for number in range(rounds):
        for entry in entries if number % 2 == 0 else reversed(entries):
            for line in printed_by(entry, steps):
                if line["name"] in found:
                    found[line["name"]].append(line)
                    print(number, line["name"], line["acts_per_s"], flush=True)
    return list(found.items())


def printed_by(entry: Contender, steps: int) -> list[dict[str, Any]]:
    settings = {"STEPS": str(steps), "WARMUP": "3", "THREADS": "2", "K": "32"}
    command = [entry.python, *entry.script]
    run = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


if __name__ == "__main__":
    main()
