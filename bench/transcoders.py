"""A step of a transcoder takes at most 1.1 times that of an SAE of the same size.

    python bench/transcoders.py [--rounds 12]

d_in = d_out 512, d_sae 4096, batch 2,048, float32: a ReLU with l1 in dense steps and a TopK with k 32 in sparse ones,
as an SAE, a transcoder, one with a skip, and a crosscoder of two hooks of half the width. The contenders take
turns in one process, four steps at a time, every other round in the opposite order; each has its own state and trains
on random rows. The figures are medians of steps, over the SAE's. Writes results/transcoders.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from record import write_result

from saepipe.train.config import TrainConfig
from saepipe.train.step.allocator import keep_freed_memory
from saepipe.train.step.state import Recipe, Target, fresh_state, initial_params
from saepipe.train.step.step import train_step

CLAIM = __doc__.split("\n\n")[0]
AIM = 1.1
WIDTH, D_SAE, BATCH, STEPS = 512, 4096, 2048, 4
CPU = torch.device("cpu")
SAES: dict[str, dict[str, Any]] = {
    "relu, dense": {"sae": {"name": "relu"}, "penalties": [{"name": "l1", "weight": 1.0}], "sparse_steps": "never"},
    "topk, sparse": {"sae": {"name": "topk", "k": 32}, "sparse_steps": "always"},
}
KINDS: dict[str, dict[str, Any]] = {
    "sae": {"hook": "x"},
    "transcoder": {"hook": "x", "target": "y"},
    "skip transcoder": {"hook": "x", "target": "y", "skip": True},
    "crosscoder": {"hooks": ["x", "y"]},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    keep_freed_memory()
    figures = {}
    for name, settings in SAES.items():
        steps = {kind: make_step(settings, own) for kind, own in KINDS.items()}
        times = take_turns(steps, args.rounds)
        medians = {kind: statistics.median(own) for kind, own in times.items()}
        figures[name] = {
            "ms": {kind: round(1000 * median, 2) for kind, median in medians.items()},
            "times the SAE's": {kind: medians[kind] / medians["sae"] for kind in KINDS},
        }
        print(name, {kind: f"{ratio:.2f}x" for kind, ratio in figures[name]["times the SAE's"].items()}, flush=True)
    shape = {"width": WIDTH, "d_sae": D_SAE, "batch": BATCH, "threads": torch.get_num_threads(), "rounds": args.rounds}
    write_result("transcoders", CLAIM, {"aim": AIM, "figures": figures, "settings": shape})


def make_step(settings: dict[str, Any], kind: dict[str, Any]) -> Callable[[], object]:
    """Returns a function that makes a step on the same random rows each time."""
    raw = {**settings, **kind, "cache": "none", "steps": 100_000, "batch_size": BATCH}
    raw["sae"] = {**settings["sae"], "d_sae": D_SAE}
    config = TrainConfig.parse(raw).resolved(hook=kind.get("hook"), num_rows=BATCH, device=CPU)
    if config.hooks:
        half = WIDTH // 2
        recipe = Recipe(config, WIDTH, 1.0, CPU, widths=(half, half), scales=(1.0, 1.0))
    else:
        recipe = Recipe(config, WIDTH, 1.0, CPU, Target(WIDTH, 1.0) if config.target else None)
    state = fresh_state(recipe, initial_params(recipe))
    width = WIDTH * (2 if recipe.target else 1)
    rows = torch.randn(BATCH, width, generator=torch.Generator().manual_seed(0)).bfloat16()
    return lambda: train_step(recipe, state, rows)


def take_turns(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of every step after the first round."""
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    for number in range(rounds + 1):
        for kind in steps if number % 2 else reversed(steps):
            for _ in range(STEPS):
                start = time.perf_counter()
                steps[kind]()
                if number:
                    times[kind].append(time.perf_counter() - start)
    return times


if __name__ == "__main__":
    main()
