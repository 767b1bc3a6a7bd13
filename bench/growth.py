"""Time and memory grow no faster than the work: the exponent of each kind of work over three doublings or more.

    python bench/growth.py [--only NAME...] [--rounds 2]
    python bench/growth.py --table

Each point is a process of its own with one thread, on material that another process has made. Measured are the
CPU-seconds of the work, user and system, the least of the rounds, and how far the peak of resident memory rises above
what the process held before it. An exponent is the slope of log cost over log size at the three largest sizes, with
the slopes of the two steps between them. Nothing is extrapolated. Reads `data/ag_news.csv` in the folder
SAEPIPE_SHARED (default ../shared). Writes results/growth.json, and prints the table of docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from record import RESULTS, write_result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from growth_parts.work import WORKS, Work

CLAIM = __doc__.split("\n\n")[0]
COUNTED = 3
"""Largest sizes that an exponent is taken over."""
MEGABYTES = 8.0
"""Rise of memory below which it says nothing of the work."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(WORKS), default=list(WORKS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print the table of the last results")
    parser.add_argument("--child", nargs=4, metavar=("STAGE", "NAME", "SIZE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        stage, name, size, folder = options.child
        child(stage, WORKS[name], int(size), Path(folder))
        return
    path = RESULTS / "growth.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else {}  # of works that are not asked for
    if options.table:
        print("\n".join(line(work, rows[name]) for name, work in WORKS.items() if name in rows))
        return
    with tempfile.TemporaryDirectory() as materials:
        for name in options.only:
            rows[name] = grown(name, WORKS[name], options.rounds, Path(materials))
            print(line(WORKS[name], rows[name]), flush=True)
            write_result("growth", CLAIM, {"rows": {name: rows[name] for name in WORKS if name in rows}})


def grown(name: str, work: Work, rounds: int, materials: Path) -> dict[str, Any]:
    """Measures a kind of work at all of its sizes."""
    points = [measured(name, size, rounds, materials / f"{work.prepare or name}-{size}") for size in work.sizes]
    seconds, megabytes = ([point[key] for point in points] for key in ("cpu_s", "rise_mb"))
    memory = exponent(work.sizes, megabytes) if min(megabytes[-COUNTED:]) >= MEGABYTES else None
    return {"points": points, "time_exponent": exponent(work.sizes, seconds), "memory_exponent": memory}


def measured(name: str, size: int, rounds: int, folder: Path) -> dict[str, float]:
    """Measures a kind of work at one size, on material in a folder that is made if it is not there."""
    if not folder.exists():
        folder.mkdir()
        if WORKS[name].prepare:
            run_child("prepare", name, size, folder)
    points = [json.loads(run_child("work", name, size, folder)) for _ in range(rounds)]
    return {"size": size} | {key: min(point[key] for point in points) for key in ("cpu_s", "rise_mb")}


def run_child(stage: str, name: str, size: int, folder: Path) -> str:
    command = [sys.executable, __file__, "--child", stage, name, str(size), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SAEPIPE_COMMIT": "bench"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1] if stage == "work" else ""


def child(stage: str, work: Work, size: int, folder: Path) -> None:
    """Prepares the material of one point, or does its work and prints what that took."""
    if stage == "prepare":
        function(work.prepare)(folder, size)
        return
    act = function(work.begin)(folder, size)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
    before, began = status_mb("VmRSS"), time.process_time()
    act()
    seconds = time.process_time() - began
    print(json.dumps({"cpu_s": round(seconds, 4), "rise_mb": round(status_mb("VmHWM") - before, 1)}))


def function(path: str) -> Callable[[Path, int], Any]:
    module, name = path.split(".")
    found: Callable[[Path, int], Any] = getattr(import_module(f"growth_parts.{module}"), name)
    return found


def status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def exponent(sizes: tuple[int, ...], costs: list[float]) -> dict[str, Any]:
    """Returns the slope of log cost over log size at the largest sizes, and the least and largest slope of a step."""
    points = [(math.log(size), math.log(max(cost, 1e-9))) for size, cost in zip(sizes, costs, strict=True)][-COUNTED:]
    steps = [(y - y0) / (x - x0) for (x0, y0), (x, y) in pairwise(points)]
    (first, low), (last, high) = points[0], points[-1]
    return {
        "slope": round((high - low) / (last - first), 2),
        "steps": [round(min(steps), 2), round(max(steps), 2)],
    }


def line(work: Work, row: dict[str, Any]) -> str:
    """Returns a row of the table: sizes, cost at the largest, exponents, and why more than linear must be."""
    first, last = row["points"][0], row["points"][-1]
    sizes = f"{readable(first['size'])} to {readable(last['size'])} {work.axis}"
    seconds, memory = f"{last['cpu_s']:{'.0f' if last['cpu_s'] >= 10 else '.2g'}} s", f"{last['rise_mb']:.0f} MB"
    cells = [work.what, sizes, seconds, shown(row["time_exponent"]), memory, shown(row["memory_exponent"]), work.why]
    return f"| {' | '.join(cells)} |"


def shown(fitted: dict[str, Any] | None) -> str:
    if fitted is None:
        return "-"
    low, high = fitted["steps"]
    return f"{fitted['slope']:.2f} ({low:.2f} to {high:.2f})"


def readable(size: int) -> str:
    return f"{size / 1e6:.3g}M" if size >= 10**6 else f"{size:,}"


if __name__ == "__main__":
    main()
