"""Time of 8 small sparse variants as blocks of one pattern over that of the same 8 one after the other; aim 0.4.

    python bench/blocks.py [--rounds 2] [--threads 1] [--only "topk, auxk"]

`saepipe.train.run.train` at d_in 64, d_sae 256 and batch 256, in turns in one process: one after the other as by
default (dense steps), as a stack (`exact: false`), and as blocks (`sparse_steps: always`), whose runs have the bits
that each has alone. The runs differ in weight, lr and seed; loader and log lines are included, from step 300 to the
last but one. L0 is 8 with topk; the result has that of the others: below 10 with `relu, sparse`, and with `relu`, whose
weights are those of stack.py, up to 90. Writes results/blocks.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, write_result
from stack import RUNS, SMALL, Clock, Shape, relu, structured_rows, topk, variant, write_cache

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
BEGIN, END = 300, 500  # steps; by then a ReLU under l1 is sparse
CLOCKS = ("wall", "cpu")  # seconds of a step of all runs

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
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=MAKERS, help="this kind of run; its rounds are added to those of the file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as `train` does
    path = RESULTS / "blocks.json"
    figures = json.loads(path.read_text())["runs"] if args.only and path.exists() else {}
    for name in [args.only] if args.only else MAKERS:
        turns = figures.get(name, {"turns": []})["turns"]
        with tempfile.TemporaryDirectory() as folder:
            turns += time_rounds(Path(folder), MAKERS[name], args.rounds, first=len(turns))
        figures[name] = {"ratio": ratios(turns), "turns": turns}
        print(f"{name:14}", json.dumps(figures[name]["ratio"]), flush=True)
    write_result("blocks", CLAIM, {"settings": {"threads": args.threads}, "aim": AIM, "runs": figures})


def time_rounds(folder: Path, make: Make, rounds: int, first: int) -> list[dict[str, Any]]:
    """Times a step of all runs in each way, every other round in the opposite order."""
    cache = write_cache(folder / "cache", {"h": structured_rows(65_536, SMALL.d_in)})
    turns: list[dict[str, Any]] = []
    for number in range(first, first + rounds):
        turn = {}
        for way in list(WAYS) if number % 2 == 0 else reversed(WAYS):
            clock = Clock(BEGIN, END)
            paths = train(TrainConfig.parse(config(cache, make) | WAYS[way]), folder / f"{number}{way}", progress=clock)
            assert read_manifest(paths[0])[0]["stacked"] == (1 if way == ALONE else len(RUNS))
            l0 = [json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])["l0"] for path in paths]
            turn[way] = {"wall": clock.per_step.wall, "cpu": clock.per_step.cpu, "l0": l0}
        turns.append(turn)
    return turns


def ratios(turns: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns the median over rounds of each way's time over that of runs one after the other, wall and CPU."""
    return {
        way: {clock: statistics.median(turn[way][clock] / turn[ALONE][clock] for turn in turns) for clock in CLOCKS}
        for way in WAYS
        if way != ALONE
    }


def config(cache: Path, make: Make) -> dict[str, Any]:
    return {
        **make(SMALL, 0.1),
        "cache": str(cache),
        "variants": [variant(run, make, SMALL) for run in RUNS],
        "steps": END + 1,
        "batch_size": SMALL.batch,
        "init": {"b_dec_rows": 2048},
        "device": "cpu",
    }


if __name__ == "__main__":
    main()
