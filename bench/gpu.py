"""Checks the kernels on a GPU, then measures steps, whole runs, harvest, the screen, and the ceilings that they meet.

    python bench/gpu.py [--parts kernels steps ...] [--out FILE]        on a CUDA GPU; budgets add up to 7.5 minutes
    python bench/gpu.py --tiny --out FILE                               runs every line on a CPU; makes no claims

The most telling part comes first. Each part, and each width and context within one, is written to the result file as
it ends, so a killed run keeps what it measured, and a later call with other `--parts` on the same GPU and commit adds
to the file. A wrong kernel is not timed. The last table lists the aims.
Exit code 1 if anything failed. Writes results/gpu.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from gpu_parts import aims, ceilings, device, harvest, kernels, loader, profile, reference, screen, steps
from gpu_parts.scale import Scale, full, tiny
from gpu_parts.session import Keep, Session
from gpu_parts.timing import Budget, attempt
from record import RESULTS, machine

from saepipe.data.folders.artifact import provenance, write_json

CLAIM = "On a GPU the kernels are right, and harvest, dense and sparse steps and ten whole runs reach the `aims`"
PARTS: dict[str, Callable[[Session], dict[str, Any]]] = {
    "kernels": kernels.measure,
    "steps": steps.measure,
    "reference": reference.measure,
    "harvest": harvest.measure,
    "screen": screen.measure,
    "ceilings": ceilings.measure,
    "loader": loader.measure,
}
NEEDS_KERNELS = {"steps", "reference", "screen"}


def main() -> int:
    args = arguments()
    if not args.tiny and not torch.cuda.is_available():
        sys.exit("no CUDA device; --tiny --out FILE runs every line of this script on the CPU")
    scale = tiny() if args.tiny else full(torch.device("cuda", torch.cuda.current_device()))
    if args.reference_rows:
        scale = replace(scale, reference_rows=args.reference_rows)
    origin = {"device": device.describe(scale.device), "commit": provenance()["commit"]}
    parts = earlier_parts(args.out, origin)
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        for name in with_kernels(args.parts, parts):
            print(f"{name}:", flush=True)

            def keep(figures: Mapping[str, Any], name: str = name) -> None:
                write(args.out, scale, origin, {**parts, name: figures})

            parts[name] = measure(name, scale, Path(folder), parts, keep)
            write(args.out, scale, origin, parts)
        if args.profile:
            print(profile.tables(scale, Path(folder)))
    print("\ntiny sizes on a CPU: the aims are not judged" if scale.tiny else "")
    for judged in [] if scale.tiny else aims.judge(parts):
        print(judged)
    failed = list(failures(parts))
    for line in failed:
        print(f"FAILED {line}")
    return bool(failed)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="parts (default: all)")
    parser.add_argument("--out", type=Path, help="result file (default: results/gpu.json)")
    parser.add_argument("--tiny", action="store_true", help="small sizes on the CPU; needs --out")
    parser.add_argument("--profile", action="store_true", help="also print where the time of a step goes")
    parser.add_argument("--reference-rows", type=int, help="rows of the cache that the ten runs read")
    parser.add_argument("--scratch", type=Path, help="parent folder of the temporary caches")
    args = parser.parse_args()
    if args.tiny and args.out is None:
        parser.error("--tiny needs --out, because its numbers are not results")
    args.out = args.out or RESULTS / "gpu.json"
    return args


def earlier_parts(out: Path, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parts in `out` if they are from the same device and commit, else none: the file is started again."""
    if not out.exists():
        return {}
    result = json.loads(out.read_text())
    # Writing a result into the checkout makes the commit dirty, but the code is the same.
    commits = [text.removesuffix("-dirty") for text in (result["versions"]["commit"], origin["commit"])]
    same = result["device"]["name"] == origin["device"]["name"] and commits[0] == commits[1]
    print(f"{out}: {'adding to it' if same else 'is from another device or commit: starting again'}", flush=True)
    return result["parts"] if same else {}


def with_kernels(names: list[str], parts: Mapping[str, Any]) -> list[str]:
    """Sorts the parts to measure, and adds `kernels` if a part needs them and they have not been checked yet."""
    chosen = set(names) | ({"kernels"} if NEEDS_KERNELS & set(names) and "kernels" not in parts else set())
    return [name for name in PARTS if name in chosen]


def measure(name: str, scale: Scale, folder: Path, parts: Mapping[str, Any], keep: Keep) -> dict[str, Any]:
    """Measures one part, and how long it takes; it may `keep` its figures so far."""
    right = parts.get("kernels", {}).get("right", False)
    session = Session(scale, Budget.of(scale.seconds[name]), folder, right, keep)
    began = time.perf_counter()
    figures = attempt(name, lambda: PARTS[name](session))
    seconds = time.perf_counter() - began
    print(f"  {seconds:.0f} s", flush=True)
    return figures | {"took_s": seconds, "nvidia_smi_after": device.nvidia_smi(scale.device)}


def write(out: Path, scale: Scale, origin: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """Writes the parts measured so far, with their aims; refuses NaN and infinity."""
    judged = [] if scale.tiny else [asdict(judged) for judged in aims.judge(parts)]
    where = {"device": origin["device"], "machine": machine(), "versions": dict(provenance())}
    write_json(out, {"claim": CLAIM, "aims": judged, "parts": dict(parts), **where})


def failures(result: Any, path: str = "") -> Iterator[str]:
    """Yields the path of each failure in the result, and its reason."""
    if isinstance(result, Mapping):
        if "failed" in result:
            yield f"{path}: {result['failed']}"
        for key, value in result.items():
            yield from failures(value, f"{path}, {key}" if path else str(key))


if __name__ == "__main__":
    sys.exit(main())
