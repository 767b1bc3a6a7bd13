"""8 small sparse variants as blocks of one pattern take <= 0.4x the time of the same 8 one after the other.

    python bench/blocks.py [--rounds 3] [--threads 1] [--quick]

`saepipe.train.run.train` at d_in 64, d_sae 256 and batch 256, in turns in one process: one after the other as by
default (dense steps), as a stack (`exact: false`), and as blocks (`sparse_steps: always`), whose runs have the bits
that each has alone. The runs differ in weight, lr and seed; loader and log lines are included, from step 100 to the
last but one. L0 is 8 with topk; with `relu, sparse` the weights let it fall to about 10 to 50. With `relu`, as in
stack.py, most latents stay active, and blocks are slower. Writes results/blocks.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from record import write_result
from stack import RUNS, SMALL, Clock, Shape, Timing, relu, structured_rows, topk, variant, write_cache

from saepipe.data.folders.artifact import read_manifest
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.step.allocator import keep_freed_memory

CLAIM = __doc__.split("\n\n")[0].replace("\n", " ")
ALONE = "one after the other"
WAYS: dict[str, dict[str, Any]] = {
    ALONE: {"exact": True},
    "stack": {"exact": False},
    "blocks": {"sparse_steps": "always"},
}
AIM = 0.4

Make = Callable[[Shape, float], dict[str, Any]]


def sparse_relu(shape: Shape, weight: float) -> dict[str, Any]:
    return relu(shape, 2 + 3 * weight)


def plain_topk(shape: Shape, weight: float) -> dict[str, Any]:
    return topk(shape, weight) | {"penalties": [{"name": "l1", "weight": 0.01 * weight}]}


MAKERS: dict[str, Make] = {
    "topk, auxk": topk,
    "topk, l1": plain_topk,
    "relu, sparse": sparse_relu,
    "relu": relu,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a short trial run with unreliable numbers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as `train` does
    steps = 60 if args.quick else 500
    figures: dict[str, Any] = {"settings": {"threads": args.threads, "rounds": args.rounds, "steps": steps}, "aim": AIM}
    for name, make in MAKERS.items():
        with tempfile.TemporaryDirectory() as folder:
            figures[name] = time_ways(Path(folder), make, args.rounds, steps)
        print(f"{name:14}", json.dumps(figures[name]["ratio"]), flush=True)
    write_result("blocks-quick" if args.quick else "blocks", CLAIM, figures)


def time_ways(folder: Path, make: Make, rounds: int, steps: int) -> dict[str, Any]:
    """Times a step of all runs in each way, every other round in the opposite order."""
    cache = write_cache(folder / "cache", {"h": structured_rows(65_536, SMALL.d_in)})
    timings: dict[str, list[Timing]] = {way: [] for way in WAYS}
    l0: dict[str, list[float]] = {}
    for number in range(rounds):
        for way in list(WAYS) if number % 2 == 0 else reversed(WAYS):
            clock = Clock(100, 100 + steps)
            raw = config(cache, make, steps) | WAYS[way]
            paths = train(TrainConfig.parse(raw), folder / f"{number}{way}", progress=clock)
            assert read_manifest(paths[0])[0]["stacked"] == (1 if way == ALONE else len(RUNS))
            timings[way].append(clock.per_step)
            l0[way] = [json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])["l0"] for path in paths]
    return {"ratio": ratios(timings), "ms": medians(timings), "l0": l0}


def config(cache: Path, make: Make, steps: int) -> dict[str, Any]:
    return {
        **make(SMALL, 0.1),
        "cache": str(cache),
        "variants": [variant(run, make, SMALL) for run in RUNS],
        "steps": 100 + steps + 1,
        "batch_size": SMALL.batch,
        "init": {"b_dec_rows": 2048},
        "device": "cpu",
    }


def ratios(timings: Mapping[str, list[Timing]]) -> dict[str, dict[str, float]]:
    """Returns the median over rounds of each way's time over that of runs one after the other, wall and CPU."""
    return {
        way: {
            clock: statistics.median(
                getattr(own, clock) / getattr(alone, clock) for own, alone in zip(each, timings[ALONE], strict=True)
            )
            for clock in ("wall", "cpu")
        }
        for way, each in timings.items()
        if way != ALONE
    }


def medians(timings: Mapping[str, list[Timing]]) -> dict[str, float]:
    return {way: 1e3 * statistics.median(timing.cpu for timing in each) for way, each in timings.items()}


if __name__ == "__main__":
    main()
