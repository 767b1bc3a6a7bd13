"""A harvest that is killed (-9) at 10 random moments, once with a torn manifest line, and resumed gives the same cache
as an uninterrupted one, file by file; so does training, killed at 3 moments; a changed config is refused.

    python bench/crash.py [--harvest-kills 10] [--train-kills 3] [--seed 0]

Runs the real command line, on the toy. Moments are spread over the time from the uninterrupted run's first file to its
last, and one of them is that of the first file. The clock counts the process's own CPU-seconds (Linux): other jobs may
share the machine. A killed run is killed again while it resumes; a run that finishes before its moment is compared,
and another one is started. Every file is compared byte by byte, except log/ (times) and, in training, checkpoints/ and
the tokens per second in metrics.jsonl. Exit code 1 on any difference. Writes results/crash.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from record import write_result

HARVEST = """
model: {model: toy, dtype: float32, device: cpu}
hooks: [blocks.2.hook_resid_post]
num_tokens: 40k
heldout_tokens: 4k
heldout_share: 0.1
shard_rows: 2048
chunk_rows: 512
pool_shards: 2
batch_size: 16
"""
TRAIN = """
hook: blocks.2.hook_resid_post
sae: {name: relu, d_sae: 256}
penalties: [{name: l1, weight: 1.0}]
steps: 300
batch_size: 512
log_every: 5
checkpoint_every: 20
device: cpu
variants: [{name: relu}, {name: topk, sae: {name: topk, d_sae: 256, k: 16}, penalties: [{name: auxk}]}]
"""
TORN = b'{"files": {"acts/blocks.2.hook_resid_post/c/1'
NOT_COMPARED = ("log", "checkpoints")
# The checkout may change during the benchmark, and caches and runs record its commit.
ENVIRONMENT = {**os.environ, "SAEPIPE_COMMIT": "bench", "OMP_NUM_THREADS": "1"}
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Task:
    """A command to be killed: its arguments without --out, the files that it writes first and last, and a change of its
    config, with the difference that the refusal must name."""

    name: str
    arguments: Sequence[str]
    first_file: str
    last_file: str
    change: str
    difference: str


def main(harvest_kills: int, train_kills: int, seed: int) -> int:
    generator = np.random.default_rng(seed)
    results = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "harvest.yaml").write_text(HARVEST)
        (scratch / "train.yaml").write_text(TRAIN)
        options, change = ["--config", f"{scratch}/harvest.yaml"], ("seed=1", "seed: 0 -> 1")
        harvest = Task("harvest", options, "zarr.json", "COMMITTED", *change)
        results["harvest"] = kill_and_resume(harvest, scratch, harvest_kills, generator)
        options = ["--config", f"{scratch}/train.yaml", "--cache", f"{scratch}/harvest"]
        last, change = "topk/seed-0", ("optimizer.lr=0.01", "optimizer.lr: 0.0003 -> 0.01")
        train = Task("train", options, f"{last}/config.yaml", f"{last}/COMMITTED", *change)
        results["train"] = kill_and_resume(train, scratch, train_kills, generator)
    failures = [line for result in results.values() for line in result["differences"]]
    print(f"{len(failures)} differences" if failures else "no difference")
    write_result("crash", "killed and resumed equals uninterrupted, file by file; a changed config is refused", results)
    return bool(failures)


def kill_and_resume(task: Task, scratch: Path, num_kills: int, generator: np.random.Generator) -> dict[str, Any]:
    """Kills the task at `num_kills` moments, resumes it, and compares its files with those of an uninterrupted run."""
    uninterrupted = scratch / task.name
    seconds, _ = run(task, uninterrupted)
    print(f"{task.name}: {seconds:.1f} CPU-seconds, {len(contents(uninterrupted))} files to compare", flush=True)
    moments = (generator.permutation(num_kills) + generator.random(num_kills)) * seconds / num_kills
    moments[0] = 0.0
    out, kills, finished, differences = scratch / "killed", [], 0, []
    for number, moment in enumerate(moments):
        while not run(task, out, kill_at=moment)[1]:  # it finished before the moment
            differences += compare(contents(uninterrupted), contents(out))
            finished += 1
            shutil.rmtree(out)
            moment *= 0.9
        torn = number == num_kills // 2
        if torn:
            tear(out)
        kills.append({"cpu_seconds": round(float(moment), 3), "torn_line": torn, **progress(out)})
        print(f"  kill {number + 1:2} {kills[-1]}", flush=True)
    differences += refusal(task, out)
    run(task, out)
    differences += compare(contents(uninterrupted), contents(out))
    finished += 1
    shutil.rmtree(out)
    print(f"  finished runs compared after kills: {finished}; differences: {differences or 'none'}", flush=True)
    return {"cpu_seconds": round(seconds, 2), "kills": kills, "finished": finished, "differences": differences}


def run(task: Task, out: Path, *, kill_at: float = float("inf")) -> tuple[float, bool]:
    """Runs the task until its end, or until `kill_at` CPU-seconds after it wrote its first file.

    Returns:
        CPU-seconds from its first file to its last file or its end, and whether it was killed.
    """
    first = out / task.first_file
    before = stamp(first)
    with tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(command(task, out), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=messages)
        while process.poll() is None and stamp(first) == before and not (out / task.last_file).exists():
            time.sleep(0.0005)
        began = seconds = cpu_seconds(process)
        while process.poll() is None and not (out / task.last_file).exists():
            seconds = max(seconds, cpu_seconds(process))
            if seconds - began >= kill_at:
                process.kill()
                process.wait()
                return seconds - began, True
            time.sleep(0.001)
        if process.wait():
            messages.seek(0)
            raise SystemExit(f"{task.name} ended with exit code {process.returncode}:\n{messages.read()}")
    return seconds - began, False


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """Returns the CPU-seconds of all threads of a running child process; 0 once it has ended."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def stamp(path: Path) -> tuple[int, int] | None:
    """Returns a value that changes when the file is rewritten; None if there is no file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def command(task: Task, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "saepipe.cli", task.name, *task.arguments, "--out", str(out), *more]


def tear(out: Path) -> None:
    """Appends half a line to each manifest, as a power loss would leave it."""
    for manifest in out.rglob("manifest.jsonl"):
        with manifest.open("ab") as file:
            file.write(TORN)


def progress(out: Path) -> dict[str, int]:
    """Counts a killed run's manifest lines, files not yet renamed, and checkpoints."""
    return {
        "lines": sum(path.read_bytes().count(b"\n") for path in out.rglob("manifest.jsonl")),
        "partial_files": sum(1 for _ in out.rglob("*.partial")),
        "checkpoints": sum(1 for _ in out.rglob("checkpoints/*/state.json")),
    }


def refusal(task: Task, out: Path) -> list[str]:
    """Returns an empty list if a changed config is refused for an unfinished folder, else the problem."""
    process = subprocess.run(command(task, out, "--set", task.change), env=ENVIRONMENT, capture_output=True, text=True)
    refused = process.returncode == 2 and task.difference in process.stderr
    print(f"  changed config: exit code {process.returncode}: {' '.join(process.stderr.split())[:160]}", flush=True)
    return [] if refused else [f"{task.change} was not refused: {process.returncode} {process.stderr}"]


def contents(out: Path) -> Mapping[str, bytes]:
    """Returns the content of every file that must be equal, by path."""
    names = [path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_file()]
    return {str(name): comparable(out / name) for name in names if not set(NOT_COMPARED) & set(name.parts)}


def comparable(path: Path) -> bytes:
    """Returns a file's bytes; for metrics.jsonl, its lines without the tokens per second."""
    if path.name != "metrics.jsonl":
        return path.read_bytes()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return json.dumps([{key: line[key] for key in line if key != "tokens_per_second"} for line in lines]).encode()


def compare(uninterrupted: Mapping[str, bytes], resumed: Mapping[str, bytes]) -> list[str]:
    """Lists the files that differ."""
    names = sorted(uninterrupted.keys() | resumed.keys())
    return [f"{name} differs" for name in names if uninterrupted.get(name) != resumed.get(name)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--harvest-kills", type=int, default=10)
    parser.add_argument("--train-kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.exit(main(args.harvest_kills, args.train_kills, args.seed))
