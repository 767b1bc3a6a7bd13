"""A harvest of AG News with the toy model at two hooks reaches >= 1.2x the tokens/s of an earlier build and >= 85 % of
the tokens/s of its forward passes alone.

    python bench/harvest.py [--before CHECKOUT] [--tokens 450000] [--rounds 5] [--threads 2]
    python bench/harvest.py --trace                    prints which thread does what, and writes no result

Each contender is a process of its own per round, and they take turns; every other round runs in the opposite order. A
harvest is timed from its first batch until the cache is sealed, without loading the model: tokenising, passes,
selection, shuffle, lossless encoding, fsync. The forward passes alone are `capture` on the same batches, on as many
threads. Tokens include the special ones. CPU-seconds are summed over all threads. Reads `data/ag_news.csv` in the
folder SAEPIPE_SHARED (default ../shared). Writes results/harvest.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from threading import Event, Thread
from types import FrameType

import torch
from record import write_result

from saepipe.data.terminal.progress import Silent
from saepipe.harvest.capture import capture
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.describe import make_windows
from saepipe.harvest.feed import WindowFeed
from saepipe.harvest.model import load_model
from saepipe.harvest.run import harvest

CLAIM = __doc__.split("\n\n")[0].replace("\n", " ")
HERE = Path(__file__).parent.parent
AIMS = {"earlier build": 1.2, "forward alone": 0.85}
HOOKS = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
PARTS = {
    "capture.py": "forward pass",
    "selection.py": "rounding, norms, selection",
    "row_source.py": "rounding, norms, selection",
    "tokenize.py": "tokenising",
    "local_rows.py": "tokenising",
    "pools.py": "copying into the pool",
    "channel_moments.py": "encoding",
    "codecs.py": "encoding",
    "shards.py": "encoding",
    "writer.py": "encoding",
    "artifact.py": "writing, fsync",
}
"""What a thread does while a function of such a file is the innermost on its stack."""

WAITING = {
    "threading.py": ("wait", "acquire"),
    "_base.py": ("result",),
    "thread.py": ("_worker",),
    "workers.py": ("_work", "close"),
    "selectors.py": ("select",),
}
"""Functions in which a thread waits for others, by file."""


class Clock(Silent):
    """Starts at the first task of a harvest."""

    began: tuple[float, float] | None = None

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        self.began = self.began or (time.perf_counter(), time.process_time())

    def line(self, tokens: int) -> dict[str, float]:
        """Returns tokens per second and per CPU-second since the start."""
        assert self.began is not None
        wall, cpu = time.perf_counter() - self.began[0], time.process_time() - self.began[1]
        return {"tokens_per_s": tokens / wall, "tokens_per_cpu_s": tokens / cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of an earlier build")
    parser.add_argument(
        "--tokens", type=int, default=450_000, help="training rows to store (default: nearly all of AG News)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="torch's threads")
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--call", choices=["harvest", "forward"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.trace:
        print_trace(args.tokens)
    elif args.call:
        print(json.dumps(harvested(args.tokens) if args.call == "harvest" else forward_alone(args.tokens)))
    else:
        builds = {"harvest": ("harvest", HERE), "forward alone": ("forward", HERE)}
        builds |= {"earlier build": ("harvest", args.before.resolve())} if args.before else {}
        report(take_turns(builds, args), args)


def settings(tokens: int) -> HarvestConfig:
    """Pools of 32,768 rows, so that pools are written while passes run."""
    news = Path(os.environ.get("SAEPIPE_SHARED", "../shared")) / "data" / "ag_news.csv"
    return HarvestConfig.parse(
        {
            "model": {"model": "toy", "dtype": "float32", "device": "cpu"},
            "dataset": {"source": str(news), "columns": [1, 2]},
            "hooks": HOOKS,
            "num_tokens": tokens,
            "heldout_tokens": tokens // 20,
            "shard_rows": 8192,
            "pool_shards": 4,
        }
    )


def harvested(tokens: int) -> dict[str, float]:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config = settings(tokens)
        cache = harvest(config, Path(folder) / "cache", progress=clock)
        contexts = cache.attributes["num_contexts"] + cache.attributes["num_heldout_contexts"]
        return clock.line(contexts * config.context_size)


def forward_alone(tokens: int) -> dict[str, float]:
    config, clock = settings(tokens), Clock()
    lm, batches, total = load_model(config.model), [], 0
    feed = WindowFeed(make_windows(config, lm), 32, 0, digest=False)
    for batch in feed.train_batches():
        batches.append(torch.from_numpy(batch.ids).long())
        total += batch.ids.size
        if total >= tokens:
            break
    capture(lm.model, batches[0], config.hook_points)  # includes one-time setup, so it is not timed
    clock.start("forward", total, "tokens")
    for ids in batches:
        capture(lm.model, ids, config.hook_points)
    return clock.line(total)


def take_turns(builds: Mapping[str, tuple[str, Path]], args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Returns by contender a line per round."""
    lines: dict[str, list[dict[str, float]]] = {name: [] for name in builds}
    for number in range(args.rounds):
        for name in builds if number % 2 == 0 else reversed(list(builds)):
            lines[name].append(in_a_process(*builds[name], args))
            figures = "  ".join(f"{key} {value:8,.0f}" for key, value in lines[name][-1].items())
            print(f"{number} {name:14} {figures}", flush=True)
    return lines


def in_a_process(call: str, checkout: Path, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--call", call, "--tokens", str(args.tokens), "--threads", str(args.threads)]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(args.threads)}
    process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    line: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return line


def report(lines: Mapping[str, list[dict[str, float]]], args: argparse.Namespace) -> None:
    """Prints medians and aims, and writes results/harvest.json."""
    medians = {
        name: {key: statistics.median(line[key] for line in rounds) for key in rounds[0]}
        for name, rounds in lines.items()
    }
    aims: dict[str, dict[str, float]] = {}
    for peer in medians.keys() & AIMS.keys():
        aims[peer] = {key: value / medians[peer][key] for key, value in medians["harvest"].items()} | {
            "aim": AIMS[peer]
        }
        reached = aims[peer]
        met = "met" if reached["tokens_per_s"] >= reached["aim"] else "MISSED"
        print(
            f"beside {peer:14} {reached['tokens_per_s']:.2f}x wall, {reached['tokens_per_cpu_s']:.2f}x per CPU-second, "
            f"aim {reached['aim']}x: {met}"
        )
    figures = {"aims": aims, "medians": medians, "rounds": dict(lines)}
    used = {"tokens": args.tokens, "threads": args.threads, "config": settings(args.tokens).to_dict()}
    del used["config"]["dataset"]["source"]
    print(f"written to {write_result('harvest', CLAIM, {**figures, 'settings': used})}")


def print_trace(tokens: int) -> None:
    """Harvests once, looks at every thread's stack each 2 ms, and prints the share of time in each part by thread."""
    seen: dict[int, Counter[str]] = {}
    stop = Event()

    def watch() -> None:
        while not stop.wait(0.002):
            if clock.began is None:  # the model is being loaded
                continue
            for thread, frame in sys._current_frames().items():
                seen.setdefault(thread, Counter())[part_of(frame)] += 1

    watcher, clock = Thread(target=watch), Clock()
    with tempfile.TemporaryDirectory() as folder:
        watcher.start()
        harvest(settings(tokens), Path(folder) / "cache", progress=clock)
    stop.set()
    watcher.join()
    assert watcher.ident is not None
    total = sum(seen.pop(watcher.ident).values())
    for counts in seen.values():
        busy = {part: count / total for part, count in counts.most_common() if part != "waits"}
        if sum(busy.values()) > 0.005:
            print(
                f"waits {1 - sum(busy.values()):.0%}, ",
                ", ".join(f"{part} {share:.0%}" for part, share in busy.items()),
            )


def part_of(frame: FrameType | None) -> str:
    """The part of a harvest that a thread is in, by the innermost function that tells."""
    while frame is not None:
        name, function = Path(frame.f_code.co_filename).name, frame.f_code.co_name
        if function in WAITING.get(name, ()):
            return "waits"
        if name in PARTS:
            return PARTS[name]
        frame = frame.f_back
    return "the rest"


if __name__ == "__main__":
    main()
