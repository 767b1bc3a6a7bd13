"""Evaluate processes started at once on a cold cache, as in a job array: each piece of the model's work is made once.

    python bench/job_array.py [--processes 2 4 8] [--steps 200] [--contexts N] [--metrics NAME...]

For each number n, n processes evaluate one run each, with no work kept beside the cache, and then one process evaluates
the same n runs in one call, also cold. Times run from the start of the first process to the end of the last, imports
included; each process has one thread. Passes of the model are counted in sequences: if the processes together make as
many as the single call, nothing was made twice. Writes results/job_array.json, and fails if a process fails, if any
pass is made twice, or if a result differs from that of the single call.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from record import write_result

from evaluate import make_runs, metrics_of

CLAIM = "Evaluate processes started at once share the model's work: together they make the passes of one call"


def main(sizes: Sequence[int], steps: int, d_sae: int, metrics: list[dict[str, Any]]) -> int:
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        runs = make_runs(scratch, max(sizes), steps, d_sae)
        for size in sizes:
            split = measure(scratch / f"{size}-split", [[run] for run in runs[:size]], metrics)
            whole = measure(scratch / f"{size}-whole", [runs[:size]], metrics)
            same = metric_values(scratch / f"{size}-split") == metric_values(scratch / f"{size}-whole")
            lines.append({"processes": size, "at once": split, "one call": whole, "equal results": same})
            print(
                f"{size} processes: exit codes {split['exit codes']}, passes {split['passes']} "
                f"(one call: {whole['passes']}), equal results: {same}, "
                f"{split['wall']:.1f} s wall and {split['cpu']:.1f} s CPU "
                f"(one call: {whole['wall']:.1f} and {whole['cpu']:.1f})",
                flush=True,
            )
    write_result("job_array", CLAIM, {"steps": steps, "d_sae": d_sae, "metrics": metrics, "calls": lines})
    return int(not all(as_claimed(line) for line in lines))


def as_claimed(line: Mapping[str, Any]) -> bool:
    split, whole = line["at once"], line["one call"]
    if any(split["exit codes"] + whole["exit codes"]):
        return False
    return line["equal results"] and all(split["passes"][kind] == whole["passes"][kind] for kind in ("full", "lower"))


def measure(folder: Path, calls: Sequence[Sequence[Path]], metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Starts a process for each call, all at once on one cold folder of kept work; returns what they cost together."""
    start, cpu = time.perf_counter(), children_cpu()
    config = {"metrics": metrics, "artifacts": str(folder / "artifacts"), "device": "cpu"}
    processes = [evaluate_process(list(map(str, runs)), config, str(folder / "results")) for runs in calls]
    printed = [process.communicate()[0] for process in processes]
    passes = Counter[str]()
    for text in printed:
        passes.update(json.loads(text.splitlines()[-1])["passes"] if text else {})
    return {
        "exit codes": [process.returncode for process in processes],
        "wall": time.perf_counter() - start,
        "cpu": children_cpu() - cpu,
        "passes": dict(passes),
        "pieces of work": len(list((folder / "artifacts").rglob("COMMITTED"))),
    }


def evaluate_process(runs: list[str], config: Mapping[str, Any], out: str) -> subprocess.Popen[str]:
    call = json.dumps({"runs": runs, "config": config, "out": out})
    command = [sys.executable, str(Path(__file__).with_name("evaluate.py")), "--call", call]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def children_cpu() -> float:
    """Returns the CPU-seconds of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def metric_values(folder: Path) -> dict[str, Any]:
    """Returns the metrics of each result below a folder, by its path there."""
    results = sorted((folder / "results").rglob("*.json"))
    contents = {path: json.loads(path.read_bytes()) for path in results}
    return {
        str(path.relative_to(folder)): [content["eval_result_metrics"], content["saepipe"]["metrics"]]
        for path, content in contents.items()
        if "eval_result_metrics" in content
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--steps", type=int, default=200, help="training steps")
    parser.add_argument("--d-sae", type=int, default=512)
    parser.add_argument("--contexts", type=int, help="held-out contexts for core and geometry (default: all)")
    parser.add_argument("--metrics", nargs="+", help="metrics to run (default: those of the config)")
    args = parser.parse_args()
    sys.exit(main(args.processes, args.steps, args.d_sae, metrics_of(args.metrics, args.contexts)))
