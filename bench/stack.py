"""8 stacked variants of one shape take <= 0.5x the time of the same 8 one after the other, if the shape is small.

    python bench/stack.py [--rounds 5] [--threads 2] [--quick]

First `saepipe.train.run.train` with `exact: false` and `exact: true`, in turns in one process; the 8 differ in weight,
lr and seed. A turn's time is that of its steps, loader and log lines (every 100 steps) included, from step 100 to the
last but one; the last judges and saves the run. The aim is <= 0.5x at 64 x 256, batch 256, and <= 1.05x at 512 x 4096,
batch 2048, where the rule does not stack. Then the sweep over shapes behind the rule (`MAX_STACKED_WORK` of
saepipe/train/stacked/teams.py): steps on one batch, stacked regardless of the rule. Writes results/stack.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from record import write_result

from saepipe.data.folders.artifact import read_manifest
from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.stacked.stack import Stack
from saepipe.train.stacked.teams import MAX_STACKED_WORK
from saepipe.train.step.allocator import keep_freed_memory
from saepipe.train.step.state import Recipe, fresh_state, initial_params
from saepipe.train.step.step import train_step

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.made_caches import structured_rows, write_cache

CLAIM = __doc__.split("\n\n")[0].replace("\n", " ")
RATIO = "stacked / one after the other"
NUM_RUNS = 8
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shape:
    d_in: int
    d_sae: int
    batch: int

    @property
    def work(self) -> int:
        """Number of multiplications in one matrix product."""
        return self.d_in * self.d_sae * self.batch

    def __str__(self) -> str:
        return f"{self.d_in} x {self.d_sae}, batch {self.batch}"


SMALL, LARGE = Shape(64, 256, 256), Shape(512, 4096, 2048)
AIMS = {SMALL: 0.5, LARGE: 1.05}
SWEEP = [
    Shape(40, 64, 256),
    SMALL,
    Shape(64, 256, 1024),
    Shape(128, 512, 512),
    Shape(128, 1024, 512),
    Shape(128, 1024, 1024),
    Shape(256, 1024, 1024),
    Shape(512, 1024, 1024),
    LARGE,
]
RUNS = [{"seed": seed, "lr": 1e-3 * (1 + seed % 2), "weight": 0.1 * 1.3**seed} for seed in range(NUM_RUNS)]


def relu(shape: Shape, weight: float) -> dict[str, Any]:
    return {"sae": {"name": "relu", "d_sae": shape.d_sae}, "penalties": [{"name": "l1", "weight": weight}]}


def topk(shape: Shape, weight: float) -> dict[str, Any]:
    return {"sae": {"name": "topk", "d_sae": shape.d_sae, "k": 8}, "penalties": [{"name": "auxk", "weight": weight}]}


def jumprelu(shape: Shape, weight: float) -> dict[str, Any]:
    penalty = {"name": "l0", "weight": weight, "target": 8}
    return {"sae": {"name": "jumprelu", "d_sae": shape.d_sae}, "penalties": [penalty]}


ARCHITECTURES: dict[str, Callable[[Shape, float], dict[str, Any]]] = {"relu": relu, "topk": topk, "jumprelu": jumprelu}


@dataclass
class Timing:
    """Wall seconds, and CPU-seconds over all threads."""

    wall: float
    cpu: float


@dataclass
class Clock(Silent):
    """Times the steps after step `begin` up to step `end`."""

    begin: int
    end: int
    done: int = 0
    said: list[str] = field(default_factory=list)
    at: dict[int, Timing] = field(default_factory=dict)

    def advance(self, amount: int, **figures: float) -> None:
        self.done += amount > 0
        if amount and self.done in (self.begin, self.end):
            self.at[self.done] = Timing(time.perf_counter(), time.process_time())

    @property
    def per_step(self) -> Timing:
        first, last, steps = self.at[self.begin], self.at[self.end], self.end - self.begin
        return Timing((last.wall - first.wall) / steps, (last.cpu - first.cpu) / steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a short trial run (minutes) with unreliable numbers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as `train` does
    rounds = 2 if args.quick else args.rounds
    figures: dict[str, Any] = {"settings": {"threads": args.threads, "rounds": rounds, "runs": RUNS}}
    with tempfile.TemporaryDirectory() as folder:
        figures["trained"] = {
            f"{name}, {shape}": time_training(Path(folder) / f"{name}{shape.d_in}", make, shape, rounds, args.quick)
            for shape, names in ((SMALL, list(ARCHITECTURES)), (LARGE, ["relu"]))
            for name, make in ARCHITECTURES.items()
            if name in names
        }
    shapes = SWEEP[:4] if args.quick else SWEEP
    figures["rule"] = {"MAX_STACKED_WORK": MAX_STACKED_WORK}
    figures["sweep"] = [time_steps(shape, rounds) for shape in shapes]
    write_result("stack-quick" if args.quick else "stack", CLAIM, figures)


def time_training(
    folder: Path, make: Callable[[Shape, float], dict[str, Any]], shape: Shape, rounds: int, quick: bool
) -> dict[str, Any]:
    """Times a step of all runs with `exact: false`, stacked if the rule says so, and with `exact: true`."""
    begin, steps = (2, 3 if quick else 12) if shape == LARGE else (100, 400 if quick else 1100)
    cache = write_cache(folder / "cache", {"h": structured_rows(max(65_536, 8 * shape.batch), shape.d_in)})
    timings: dict[bool, list[Timing]] = {True: [], False: []}
    stacked = 1
    for number in range(rounds):
        for exact in (True, False) if number % 2 == 0 else (False, True):
            clock = Clock(begin, begin + steps)
            raw = {
                **make(shape, 0.1),
                "cache": str(cache),
                "variants": [variant(run, make, shape) for run in RUNS],
                "steps": begin + steps + 1,
                "batch_size": shape.batch,
                "init": {"b_dec_rows": 2048},
                "exact": exact,
                "device": "cpu",
            }
            paths = train(TrainConfig.parse(raw), folder / f"{number}{exact}", progress=clock)
            timings[exact].append(clock.per_step)
            stacked = max(stacked, read_manifest(paths[0])[0]["stacked"])
    aim = AIMS[shape]
    return compare(f"train, {make.__name__}, {shape}", timings) | {"stacked": stacked, "aim": aim}


def time_steps(shape: Shape, rounds: int) -> dict[str, Any]:
    """Times a step of relu + l1 of all runs on one batch, stacked and one after the other."""
    rows = structured_rows(shape.batch, shape.d_in).float()
    alone, together = ([fresh(shape, run) for run in RUNS] for _ in range(2))
    stack = Stack(together)

    def one_after_the_other() -> None:
        for recipe, state in alone:
            train_step(recipe, state, rows)

    works = {True: one_after_the_other, False: lambda: stack.step(stack.first.scaled(rows))}
    timings: dict[bool, list[Timing]] = {True: [], False: []}
    calls = max(2, min(50, int(5e8 / shape.work)))
    for number in range(rounds + 1):
        for exact in (True, False) if number % 2 == 0 else (False, True):
            timing = timed(works[exact], calls)
            if number:  # the first warms up
                timings[exact].append(timing)
    return {"shape": str(shape), "work": shape.work} | compare(f"steps, {shape}, work {shape.work:.2g}", timings)


def variant(run: Mapping[str, float], make: Callable[[Shape, float], dict[str, Any]], shape: Shape) -> dict[str, Any]:
    settings = {"penalties": make(shape, run["weight"])["penalties"], "optimizer.lr": run["lr"]}
    return {"name": f"run{run['seed']}", **settings}


def fresh(shape: Shape, run: Mapping[str, Any]) -> tuple[Recipe, Any]:
    raw = {**relu(shape, run["weight"]), "optimizer": {"lr": run["lr"]}, "seed": run["seed"]}
    raw |= {"cache": "none", "steps": 100_000, "batch_size": shape.batch, "device": "cpu", "sparse_steps": "never"}
    recipe = Recipe(TrainConfig.parse(raw).resolved(hook="h", num_rows=10**9, device=CPU), shape.d_in, 1.0, CPU)
    return recipe, fresh_state(recipe, initial_params(recipe))


def timed(work: Callable[[], None], calls: int) -> Timing:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        work()
    return Timing((time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls)


def compare(title: str, timings: Mapping[bool, Sequence[Timing]]) -> dict[str, Any]:
    """Returns and prints medians of the ratios of adjacent turns."""
    figures: dict[str, Any] = {}
    for clock in ("wall", "cpu"):
        alone, together = ([getattr(timing, clock) for timing in timings[exact]] for exact in (True, False))
        ratios = [b / a for a, b in zip(alone, together, strict=True)]
        figures[clock] = {
            RATIO: statistics.median(ratios),
            "ms one after the other": 1e3 * statistics.median(alone),
            "ms stacked": 1e3 * statistics.median(together),
            "ratios": ratios,
        }
    listed = "  ".join(
        f"{clock} {line[RATIO]:.2f}x ({line['ms stacked']:.2f} of {line['ms one after the other']:.2f} ms)"
        for clock, line in figures.items()
    )
    print(f"{title:45} {listed}", flush=True)
    return figures


if __name__ == "__main__":
    main()
