"""A sparse TopK step at d_in 2304, d_sae 65,536 and batch 4096 peaks at no more than 0.6 of an earlier build's memory.

    python bench/memory.py [--before CHECKOUT] [--d-sae 65536] [--steps 2]

Each build is a process of its own: it makes a run's state as `saepipe train` does, makes steps on random rows, and the
kernel tells its peak of resident memory, the program included. `formula` is what `saepipe train --dry-run` says of the
parameters and the step (`saepipe/train/memory_needs.py`), with the program's own 0.35 GB. Writes results/memory.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from record import write_result

from saepipe.train.config import TrainConfig
from saepipe.train.step.allocator import keep_freed_memory
from saepipe.train.step.state import Recipe, fresh_state, initial_params
from saepipe.train.step.step import train_step

CLAIM = __doc__.split("\n\n")[0].replace("\n", " ")
D_IN, BATCH, K = 2304, 4096, 32
AIM = 0.6
PROGRAM = 0.35e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of an earlier build")
    parser.add_argument("--d-sae", type=int, default=65_536)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps({"peak_bytes": measure(args.d_sae, args.steps)}))
        return
    peaks = {"now": peak_of(args, None)} | ({"before": peak_of(args, args.before)} if args.before else {})
    figures: dict[str, Any] = {"peak_bytes": peaks, "formula_bytes": formula(args.d_sae), "aim": AIM}
    if args.before:
        figures["ratio"] = peaks["now"] / peaks["before"]
    figures["settings"] = {"d_in": D_IN, "d_sae": args.d_sae, "batch": BATCH, "k": K, "steps": args.steps}
    write_result("memory", CLAIM, figures)
    print(json.dumps(figures, indent=2))


def peak_of(args: argparse.Namespace, checkout: Path | None) -> int:
    """Returns the peak of one build's process in bytes."""
    environment = dict(os.environ) | ({"PYTHONPATH": str(checkout.resolve())} if checkout else {})
    command = [sys.executable, __file__, "--measure", "--d-sae", str(args.d_sae), "--steps", str(args.steps)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(json.loads(run.stdout)["peak_bytes"])


def recipe(d_sae: int) -> Recipe:
    raw = {"cache": "none", "sae": {"name": "topk", "d_sae": d_sae, "k": K}, "steps": 100, "batch_size": BATCH}
    cpu = torch.device("cpu")
    return Recipe(TrainConfig.parse(raw).resolved(hook="none", num_rows=BATCH, device=cpu), D_IN, 1.0, cpu)


def measure(d_sae: int, steps: int) -> int:
    """Makes steps, and returns the peak of this process in bytes."""
    keep_freed_memory()
    run = recipe(d_sae)
    state = fresh_state(run, initial_params(run))
    assert state.sparse
    for _ in range(steps):
        train_step(run, state, torch.randn(BATCH, D_IN))
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def formula(d_sae: int) -> float:
    from saepipe.train.memory_needs import FLOAT, step_bytes  # not at the top: earlier builds have none

    return 3 * FLOAT * 2 * D_IN * d_sae + step_bytes(recipe(d_sae)) + PROGRAM


if __name__ == "__main__":
    main()
