"""The overhead of the training loop (log lines, health, checks, waiting for the loader) is <= 5 % of a step.

    python bench/overhead.py [--steps 300] [--threads 2] [--quick]

`saepipe.train.run.train` on synthetic rows, d_in 512, d_sae 4096, batch 2048, ReLU + L1, and the default log_every of
100. After each of its steps the same step is made bare: `train_step`, without measurements, on a twin that started from
the same state, with the same rows from memory. The two take turns step by step, and the loop's extra time is its
overhead. The first 20 steps and the last, which judges and saves the run, do not count. Decoding ahead continues during
both. Its cost is measured separately: the CPU-seconds of a stream for as many batches, without training. The script
also times an addition of two (2048, 4096) arrays into a new one, in a process that keeps freed memory
(saepipe/train/step/allocator.py) and in one that does not. Writes results/overhead.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from record import write_result

from saepipe.data.batches.first_batches import FirstBatches
from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.cache import Cache
from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.live_run import first_state
from saepipe.train.plan import plan_runs
from saepipe.train.run import train
from saepipe.train.step.allocator import keep_freed_memory
from saepipe.train.step.sampling import interval, sampled_step
from saepipe.train.step.state import Recipe, TrainState
from saepipe.train.step.step import train_step

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.made_caches import structured_rows, write_cache

CLAIM = __doc__.split("\n\n")[0].replace("\n", " ")
AIM = 0.05
D_IN, D_SAE, BATCH, WARM = 512, 4096, 2048, 20


class Turns(Silent):
    """Times each step of the loop, then makes and times the same step of the twin."""

    def __init__(self, recipe: Recipe, twin: TrainState, rows: list[torch.Tensor]) -> None:
        super().__init__()
        self._recipe, self._twin, self._rows = recipe, twin, rows
        self._since = time.perf_counter()
        self.loop: list[float] = []  # seconds of each step
        self.bare: list[float] = []

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        self._since = time.perf_counter()

    def advance(self, amount: int, **figures: float) -> None:
        if not amount:  # a log line reports its figures
            return
        now = time.perf_counter()
        self.loop.append(now - self._since)
        train_step(self._recipe, self._twin, self._rows[self._twin.step])
        self._since = time.perf_counter()
        self.bare.append(self._since - now)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a short trial run: 61 steps, a log line every 20")
    parser.add_argument("--addition", choices=["kept", "freed"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.addition:
        print(milliseconds_of_addition(keep=args.addition == "kept"))
        return
    steps, log_every = (61, 20) if args.quick else (args.steps + 1, 100)
    with tempfile.TemporaryDirectory() as folder:
        turns, loader = take_turns(Path(folder), steps, log_every)
    figures = shares(turns, loader, log_every)
    for memory in ("kept", "freed"):
        command = [sys.executable, __file__, "--addition", memory, "--threads", "1"]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        figures[f"CPU-ms an addition of 2048 x 4096, memory {memory}"] = float(printed)
    settings = {"steps": steps, "log_every": log_every, "threads": args.threads}
    write_result("overhead-quick" if args.quick else "overhead", CLAIM, {"settings": settings, "aim": AIM, **figures})
    print("\n".join(f"{name:55} {value:.4g}" for name, value in figures.items()))


def take_turns(folder: Path, steps: int, log_every: int) -> tuple[Turns, float]:
    """Returns the times of the steps of both, and the CPU-seconds per batch of the loader alone."""
    cache = write_cache(folder / "cache", {"h": structured_rows(65_536, D_IN)}, shard_rows=65_536, chunk_rows=1024)
    raw: dict[str, Any] = {
        "cache": str(cache),
        "sae": {"name": "relu", "d_sae": D_SAE},
        "penalties": [{"name": "l1", "weight": 1.0}],
        "steps": steps,
        "batch_size": BATCH,
        "init": {"b_dec_rows": BATCH},
        "log_every": log_every,
        "device": "cpu",
    }
    config = TrainConfig.parse(raw)
    (planned,) = plan_runs(config, folder)
    with BatchStream(Cache.open(cache), "h", BATCH, 0) as stream:
        twin = first_state(planned.recipe, FirstBatches(stream))
        begin = time.process_time()
        rows = list(islice(stream.batches(), steps))
        loader = (time.process_time() - begin) / steps
    turns = Turns(planned.recipe, twin, rows)
    train(config, folder / "run", progress=turns)
    return turns, loader


def milliseconds_of_addition(*, keep: bool) -> float:
    """Returns the median CPU-milliseconds of an addition of two (2048, 4096) arrays."""
    if keep:
        assert keep_freed_memory(), "not the GNU C library"
    x = torch.ones(2048, 4096)
    times = []
    for _ in range(30):
        begin = time.process_time()
        torch.add(x, x)
        times.append(time.process_time() - begin)
    return 1e3 * statistics.median(times)


def shares(turns: Turns, loader: float, log_every: int) -> dict[str, float]:
    """Returns shares of a step, from medians over steps, since other jobs may share the machine."""
    steps = list(zip(turns.loop, turns.bare, strict=True))
    spans = [interval(step, len(steps), log_every) for step in range(1, len(steps) + 1)]
    extra: dict[Any, list[float]] = defaultdict(list)  # by whether a step ends a line, and gives its gradients
    for step, (span, (loop, bare)) in enumerate(zip(spans, steps, strict=True), 1):
        if WARM < step < len(steps):
            extra[step == span[1], step == sampled_step(*span)].append(loop - bare)
    bare_step = statistics.median(bare for _, bare in steps[WARM:-1])
    unlogged = statistics.median(extra[False, False])
    line = statistics.median(extra[True, False]) + statistics.median(extra[False, True]) - 2 * unlogged
    whole = unlogged + line / log_every
    return {
        "overhead / step": whole / (bare_step + whole),
        "of it: log lines and their measurements": line / log_every / (bare_step + whole),
        "of it: every step (loop, loader's wait)": unlogged / (bare_step + whole),
        "all steps: (loop - bare) / loop": 1 - sum(turns.bare[WARM:-1]) / sum(turns.loop[WARM:-1]),
        "a log line, in steps": line / bare_step,
        "ms a bare step": 1e3 * bare_step,
        "loader alone, CPU-ms a batch": 1e3 * loader,
    }


if __name__ == "__main__":
    main()
