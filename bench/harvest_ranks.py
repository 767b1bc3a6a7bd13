"""A harvest of AG News by 1, 2 and 4 ranks gives the same bytes, also when a rank is killed at a random moment (five
times), and when another number of ranks resumes it.

    python bench/harvest_ranks.py [--tokens 250000] [--kills 5] [--rounds 3] [--seed 0]

Runs `torchrun -m saepipe harvest` with the toy at two hooks, on gloo, with one thread a rank; every cache is compared
with that of a process without torchrun, file by file but for log/. Times are from the first window batch to the seal;
the contenders take turns. Reads `data/ag_news.csv` in the folder SAEPIPE_SHARED (default ../shared). Exit code 1 on
any difference. Writes results/harvest_ranks.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from record import write_result

CLAIM = __doc__.split("\n\n")[0].replace("\n", " ")
TEXT = Path(os.environ.get("SAEPIPE_SHARED", "../shared")).resolve() / "data" / "ag_news.csv"
ENVIRONMENT = {**os.environ, "SAEPIPE_COMMIT": "bench", "PYTHONPATH": str(Path(__file__).parents[1])}
SHARD_ROWS, POOL_SHARDS, BATCH_SIZE, CONTEXT_SIZE = 8192, 2, 16, 128
POOL_ROWS, BATCH_TOKENS = SHARD_ROWS * POOL_SHARDS, BATCH_SIZE * CONTEXT_SIZE
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=250_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.tokens)
        times, joining = bench.timed(options.rounds)
        figures: dict[str, Any] = {"tokens": options.tokens, "seconds": times, "joining seconds": joining}
        figures["2 ranks / 1 process of 2 threads"] = round(times["2 ranks"] / times["1 process, 2 threads"], 3)
        figures |= {"pool_rows": POOL_ROWS, "batch_tokens": BATCH_TOKENS}
        rng, whole = random.Random(options.seed), times["2 ranks, with start"]
        killed = [
            bench.killed(f"killed-{number}", rng.uniform(0.2, 0.95) * whole, rng) for number in range(options.kills)
        ]
        figures["killed"] = killed
        figures["differing files"] = {"3 ranks stopped, 2 resume": bench.differing(bench.resumed(0.6 * whole))}
    print(json.dumps(figures, indent=2))
    write_result("harvest_ranks", CLAIM, figures)
    sys.exit(any(figures["differing files"].values()) or any(kill["differing files"] for kill in killed))


class Bench:
    """Harvests into folders of their own, and compares them with the first one, which one process makes."""

    def __init__(self, folder: Path, tokens: int) -> None:
        self._folder, self._config = folder, folder / "harvest.yaml"
        settings = {
            "dataset": {"source": str(TEXT), "columns": [1, 2]},
            "model": {"model": "toy", "dtype": "float32", "device": "cpu"},
            "hooks": ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"],
            "num_tokens": tokens,
            "heldout_tokens": tokens // 10,
            "shard_rows": SHARD_ROWS,
            "chunk_rows": 2048,
            "pool_shards": POOL_SHARDS,
            "batch_size": BATCH_SIZE,
            "context_size": CONTEXT_SIZE,
        }
        self._config.write_text(yaml.safe_dump(settings))

    def timed(self, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
        """Returns median seconds by contender, and those until its last rank begins to work."""
        seconds: dict[str, list[float]] = {}
        joining: dict[str, list[float]] = {}
        for number in range(rounds):
            for name, ranks in (("1 process, 2 threads", 0), ("1 rank", 1), ("2 ranks", 2), ("4 ranks", 4)):
                began = time.perf_counter()
                out = self.harvest(f"{name}-{number}", ranks, threads=2 if ranks == 0 else 1)
                seconds.setdefault(f"{name}, with start", []).append(time.perf_counter() - began)
                seconds.setdefault(name, []).append(_writing_seconds(out))
                joining.setdefault(name, []).append(_joining_seconds(out))
                assert not self.differing(out)
        return _medians(seconds), _medians(joining)

    def harvest(self, name: str, num_ranks: int, threads: int = 1) -> Path:
        """Harvests to the end; without torchrun if `num_ranks` is 0."""
        with self._start(name, num_ranks, threads) as process:
            process.wait()
        assert process.returncode == 0, name
        return self._folder / name

    def killed(self, name: str, seconds: float, rng: random.Random) -> dict[str, Any]:
        """Kills one of two ranks after some seconds; torchrun starts both again."""
        with self._start(name, 2, 1) as process:
            time.sleep(seconds)
            victims = _ranks_of(process.pid)
            if victims:
                os.kill(rng.choice(victims), signal.SIGKILL)
            process.wait()
        assert process.returncode == 0, name
        return {"after": round(seconds, 2), "differing files": self.differing(self._folder / name)}

    def resumed(self, seconds: float) -> Path:
        """Stops three ranks after some seconds, and lets two go on."""
        with self._start("resumed", 3, 1) as process:
            time.sleep(seconds)
            process.terminate()
            process.wait()
        return self.harvest("resumed", 2)

    def differing(self, out: Path) -> int:
        """Returns the number of files that differ from the first harvest."""
        expected, found = (_contents(path) for path in (self._folder / "1 process, 2 threads-0", out))
        return sum(expected.get(name) != found.get(name) for name in expected.keys() | found.keys())

    def _start(self, name: str, num_ranks: int, threads: int) -> subprocess.Popen[bytes]:
        ranks = [*TORCHRUN, f"--nproc-per-node={num_ranks}", "--max-restarts=2"] if num_ranks else [sys.executable]
        arguments = ["-m", "saepipe", "harvest", "--config", str(self._config), "--out", str(self._folder / name)]
        environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
        return subprocess.Popen([*ranks, *arguments], env=environment, stdout=subprocess.DEVNULL)


def _ranks_of(launcher: int) -> list[int]:
    """Returns the process ids of torchrun's ranks."""
    found = subprocess.run(["pgrep", "-P", str(launcher)], capture_output=True, text=True).stdout.split()
    return [int(pid) for pid in found]


def _writing_seconds(cache: Path) -> float:
    """Returns the seconds from the log's first line, when the first window batch is read, to the seal."""
    return (cache / "COMMITTED").stat().st_mtime - min(line["time"] for line in _log(cache))


def _joining_seconds(cache: Path) -> float:
    """Returns the seconds from the log's first line to the first line of the rank that came last."""
    began: dict[int, float] = {}
    for line in sorted(_log(cache), key=lambda each: each["time"]):
        began.setdefault(line["pid"], line["time"])
    return max(began.values()) - min(began.values())


def _log(cache: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cache / "log" / "harvest.jsonl").read_text().splitlines()]


def _medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 2) for name, values in seconds.items()}


def _contents(cache: Path) -> dict[str, bytes]:
    files = (path for path in cache.rglob("*") if path.is_file())
    return {
        str(path.relative_to(cache)): path.read_bytes() for path in files if path.relative_to(cache).parts[0] != "log"
    }


if __name__ == "__main__":
    main()
