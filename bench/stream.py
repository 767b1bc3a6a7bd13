"""A training with `cache: stream` takes as much memory and disk for five times the text, and ends in the same weights
as one from a whole cache that is read pool by pool.

    python bench/stream.py [--tokens 30000]

Trains a TopK on the toy's activations, harvested at two hooks, from a stream of so many tokens and of five times as
many, with one thread a process. Memory is the peak of each process; disk is the most that waits in pools at any moment,
of the bytes that all rows have in bfloat16. Exit code 1 if the weights differ. Writes results/stream.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from record import write_result

CLAIM = __doc__.split("\n\n")[0].replace("\n", " ")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
HARVEST: dict[str, Any] = {
    "model": {"dtype": "float32", "device": "cpu"},
    "hooks": ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"],
    "heldout_tokens": 3000,
    "heldout_share": 0.2,
    "shard_rows": 2048,
    "chunk_rows": 512,
    "pool_shards": 2,
    "batch_size": 16,
}
TRAIN: dict[str, Any] = {
    "hook": "blocks.2.hook_resid_post",
    "sae": {"name": "topk", "d_sae": 256, "k": 8},
    "activation_scale": "none",
    "epochs": 1,
    "batch_size": 512,
    "init": {"b_dec_rows": 1000},
    "device": "cpu",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=30_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = {
            f"{tokens:,} tokens": figures_of(Path(folder), tokens) for tokens in (options.tokens, 5 * options.tokens)
        }
    print(json.dumps(figures, indent=2))
    write_result("stream", CLAIM, figures)
    sys.exit(not all(figure["same weights"] for figure in figures.values()))


def figures_of(folder: Path, tokens: int) -> dict[str, Any]:
    """Trains from a stream and from a whole cache; returns what the stream took."""
    harvest = folder / f"harvest-{tokens}.yaml"
    cache, streamed, whole = (folder / f"{name}-{tokens}" for name in ("cache", "streamed", "whole"))
    harvest.write_text(yaml.safe_dump({**HARVEST, "num_tokens": tokens}))
    stream = {"cache": "stream", "stream": {"harvest": str(harvest), "gb": 0.01}}
    taken = watched(train(folder, stream, streamed), streamed / "stream")
    saepipe("harvest", "-c", str(harvest), "--out", str(cache)).wait()
    train(folder, {"cache": str(cache), "shuffle": "pool"}, whole).wait()
    weights = [(out / "base/seed-0/sae/sae_weights.safetensors").read_bytes() for out in (streamed, whole)]
    return {**taken, "MB of all rows": round(4 * 128 * tokens / 1e6, 1), "same weights": weights[0] == weights[1]}


def train(folder: Path, settings: dict[str, Any], out: Path) -> subprocess.Popen[bytes]:
    config = folder / f"{out.name}.yaml"
    config.write_text(yaml.safe_dump({**TRAIN, **settings}))
    return saepipe("train", "-c", str(config), "--out", str(out))


def saepipe(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "saepipe", *arguments, "--format", "quiet"], env=ENVIRONMENT)


def watched(training: subprocess.Popen[bytes], stream: Path) -> dict[str, float]:
    """Returns the peaks of both processes' memory and of the pools on disk, in MB, until the training has ended."""
    peaks = {"training": 0.0, "harvest": 0.0, "pools on disk": 0.0}
    while training.poll() is None:
        now = {"training": peak_memory([training.pid]), "harvest": peak_memory(processes(f"stream\0{stream}\0"))}
        now["pools on disk"] = disk(stream / "pools")
        peaks = {name: max(peak, now[name]) for name, peak in peaks.items()}
        time.sleep(0.05)
    assert training.returncode == 0, training.returncode
    return {f"MB of {name}": round(peak, 1) for name, peak in peaks.items()}


def processes(words: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found += [int(path.parent.name)] if words in path.read_text(errors="replace") else []
    return found


def peak_memory(numbers: Sequence[int]) -> float:
    """Returns the peak memory of processes, in MB."""
    peaks = [0.0]
    for number in numbers:
        with suppress(OSError):
            status = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{number}/status").read_text())
            peaks += [int(status[1]) * 1024 / 1e6] if status else []
    return max(peaks)


def disk(folder: Path) -> float:
    """Returns the bytes of all files below a folder in which another process writes, in MB."""
    num_bytes = 0
    for name, _, files in os.walk(folder):
        for file in files:
            with suppress(FileNotFoundError):
                num_bytes += os.stat(Path(name, file)).st_size
    return num_bytes / 1e6


if __name__ == "__main__":
    main()
