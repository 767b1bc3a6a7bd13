"""A step's overhead outside its kernels (log lines, health, checks, waiting for the loader) is <= 5 % of the step.

    python bench/overhead.py [--steps 300] [--threads 2] [--quick]

`saepipe.train.run.train` on made-up rows, d_in 512, d_sae 4096, batch 2048, ReLU + L1, log_every 100 as by default.
After each of its steps the same step is made bare: `train_step`, unwatched, on a twin that began as it did, with the
same rows from memory. So the two take turns step by step, and what the loop takes longer is its overhead. The first 20
steps and the last, which judges and saves the run, do not count. Decoding ahead goes on during both; what it costs is
measured by itself: CPU-seconds for as many batches, of a stream that nobody trains on. Beside it: an addition of two
(2048, 4096) arrays into a new one, in a process that keeps freed memory (train/step/allocator.py) and in one that
does not. Writes results/overhead.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from record import write_result

from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.cache import Cache
from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.live_run import first_state
from saepipe.train.plan import plan_runs
from saepipe.train.run import train
from saepipe.train.step.allocator import keep_freed_memory
from saepipe.train.step.state import Recipe, TrainState
from saepipe.train.step.step import train_step

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.made_caches import structured_rows, write_cache

CLAIM = __doc__.split("\n\n")[0].replace("\n", " ")
AIM = 0.05
D_IN, D_SAE, BATCH, WARM = 512, 4096, 2048, 20


class Turns(Silent):
    """After each step of the loop, makes the twin's; times both."""

    def __init__(self, recipe: Recipe, twin: TrainState, rows: list[torch.Tensor]) -> None:
        super().__init__()
        self._recipe, self._twin, self._rows = recipe, twin, rows
        self._since = time.perf_counter()
        self._logged = False
        self.loop: list[float] = []  # seconds of each step
        self.bare: list[float] = []
        self.logged: list[bool] = []

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self._since = time.perf_counter()

    def advance(self, amount: int, **figures: float) -> None:
        if not amount:  # the figures of a log line
            self._logged = True
            return
        now = time.perf_counter()
        self.loop.append(now - self._since)
        self.logged.append(self._logged)
        train_step(self._recipe, self._twin, self._rows[self._twin.step])
        self._since, self._logged = time.perf_counter(), False
        self.bare.append(self._since - now)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a log line every 20 of 62 steps, to see that it runs")
    parser.add_argument("--addition", choices=["kept", "freed"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.addition:
        print(addition(keep=asked.addition == "kept"))
        return
    steps, log_every = (61, 20) if asked.quick else (asked.steps + 1, 100)
    with tempfile.TemporaryDirectory() as folder:
        turns, loader = take_turns(Path(folder), steps, log_every)
    figures = shares(turns, loader, log_every)
    for which in ("kept", "freed"):
        command = [sys.executable, __file__, "--addition", which, "--threads", "1"]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        figures[f"CPU-ms an addition of 2048 x 4096, memory {which}"] = float(found)
    settings = {"steps": steps, "log_every": log_every, "threads": asked.threads}
    write_result("overhead-quick" if asked.quick else "overhead", CLAIM, {"settings": settings, "aim": AIM, **figures})
    print("\n".join(f"{name:55} {value:.4g}" for name, value in figures.items()))


def take_turns(folder: Path, steps: int, log_every: int) -> tuple[Turns, float]:
    """The steps of both, and the CPU-seconds that the loader alone takes for a batch."""
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
        twin = first_state(planned.recipe, stream)
        begin = time.process_time()
        rows = list(islice(stream.batches(), steps))
        loader = (time.process_time() - begin) / steps
    turns = Turns(planned.recipe, twin, rows)
    train(config, folder / "run", progress=turns)
    return turns, loader


def addition(*, keep: bool) -> float:
    """CPU-milliseconds."""
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
    """Of a step; medians over steps, since others may be at work on the machine."""
    steps = list(zip(turns.loop, turns.bare, turns.logged, strict=True))[WARM:-1]
    bare = statistics.median(one for _, one, _ in steps)
    unlogged = statistics.median(loop - one for loop, one, logged in steps if not logged)
    line = statistics.median(loop - one for loop, one, logged in steps if logged)
    whole = unlogged + (line - unlogged) / log_every
    return {
        "overhead / step": whole / (bare + whole),
        "of it: log lines and their measurements": (line - unlogged) / log_every / (bare + whole),
        "of it: every step (loop, loader's wait)": unlogged / (bare + whole),
        "all steps: (loop - bare) / loop": 1 - sum(one for _, one, _ in steps) / sum(loop for loop, _, _ in steps),
        "a log line, in steps": (line - unlogged) / bare,
        "ms a bare step": 1e3 * bare,
        "loader alone, CPU-ms a batch": 1e3 * loader,
    }


if __name__ == "__main__":
    main()
