"""What saepipe does on a GPU, beside what the GPU can do: kernels checked, then harvest, loader, steps, whole runs.

    python bench/gpu.py [--parts kernels ceilings ...] [--out FILE]     on a CUDA GPU; budgets add up to nine minutes
    python bench/gpu.py --tiny --out FILE                               every line of it on a CPU; claims nothing

Each part is written to the result file as it ends, so a killed run keeps what it has, and a later call with other
`--parts` adds to it, if it is on the same GPU and commit. A kernel that is wrong is not timed. The last table is of
the aims. Exit code 1 if anything failed. Writes results/gpu.json.
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
from gpu_parts import aims, ceilings, device, harvest, kernels, loader, profile, reference, steps
from gpu_parts.scale import Scale, full, tiny
from gpu_parts.session import Session
from gpu_parts.timing import Budget, attempt
from record import RESULTS, machine

from saepipe.data.folders.artifact import provenance, write_json

CLAIM = "On a GPU: the kernels are right; harvest, dense and sparse steps and ten whole runs reach what `aims` says"
PARTS: dict[str, Callable[[Session], dict[str, Any]]] = {
    "kernels": kernels.measure,
    "ceilings": ceilings.measure,
    "loader": loader.measure,
    "steps": steps.measure,
    "harvest": harvest.measure,
    "reference": reference.measure,
}
RESTS_ON_KERNELS = {"steps", "reference"}


def main() -> int:
    asked = arguments()
    if not asked.tiny and not torch.cuda.is_available():
        sys.exit("no CUDA device here; --tiny --out FILE runs every line of this on the CPU")
    scale = tiny() if asked.tiny else full(torch.device("cuda", torch.cuda.current_device()))
    if asked.reference_rows:
        scale = replace(scale, reference_rows=asked.reference_rows)
    origin = {"device": device.describe(scale.device), "commit": provenance()["commit"]}
    parts = earlier(asked.out, origin)
    with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
        for name in with_kernels(asked.parts, parts):
            print(f"{name}:", flush=True)
            parts[name] = measure(name, scale, Path(folder), parts)
            write(asked.out, scale, origin, parts)
        if asked.profile:
            print(profile.tables(scale, Path(folder)))
    print("\nnumbers of tiny sizes on a CPU: nothing is judged" if scale.tiny else "")
    for judged in [] if scale.tiny else aims.judge(parts):
        print(judged)
    failed = list(failures(parts))
    for line in failed:
        print(f"FAILED {line}")
    return bool(failed)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="all, if not given")
    parser.add_argument("--out", type=Path, help="the result file; results/gpu.json, if not given")
    parser.add_argument("--tiny", action="store_true", help="small sizes on the CPU; needs --out")
    parser.add_argument("--profile", action="store_true", help="also print where the time of a step goes")
    parser.add_argument("--reference-rows", type=int, help="rows of the cache that the ten runs read")
    parser.add_argument("--scratch", type=Path, help="where caches are made; the system's temporary folder by default")
    asked = parser.parse_args()
    if asked.tiny and asked.out is None:
        parser.error("--tiny needs --out: its numbers are no results")
    asked.out = asked.out or RESULTS / "gpu.json"
    return asked


def earlier(out: Path, origin: Mapping[str, Any]) -> dict[str, Any]:
    """The parts that `out` holds from the same device and commit; a result of another one is begun anew."""
    if not out.exists():
        return {}
    result = json.loads(out.read_text())
    # Writing a result into the checkout makes it dirty; it is the same code.
    commits = [text.removesuffix("-dirty") for text in (result["versions"]["commit"], origin["commit"])]
    same = result["device"]["name"] == origin["device"]["name"] and commits[0] == commits[1]
    print(f"{out}: {'adding to it' if same else 'of another device or commit, begun anew'}", flush=True)
    return result["parts"] if same else {}


def with_kernels(asked: list[str], parts: Mapping[str, Any]) -> list[str]:
    """In the order of PARTS; with `kernels` before what rests on them, unless they were checked before."""
    wanted = set(asked) | ({"kernels"} if RESTS_ON_KERNELS & set(asked) and "kernels" not in parts else set())
    return [name for name in PARTS if name in wanted]


def measure(name: str, scale: Scale, folder: Path, parts: Mapping[str, Any]) -> dict[str, Any]:
    """One part, with what it took."""
    right = parts.get("kernels", {}).get("right", False)
    session = Session(scale, Budget.of(scale.seconds[name]), folder, right)
    began = time.perf_counter()
    found = attempt(name, lambda: PARTS[name](session))
    took = time.perf_counter() - began
    print(f"  {took:.0f} s", flush=True)
    return found | {"took_s": took, "nvidia_smi_after": device.nvidia_smi(scale.device)}


def write(out: Path, scale: Scale, origin: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    """All that is known by now; NaN and infinity are refused."""
    judged = [] if scale.tiny else [asdict(judged) for judged in aims.judge(parts)]
    where = {"device": origin["device"], "machine": machine(), "versions": dict(provenance())}
    write_json(out, {"claim": CLAIM, "aims": judged, "parts": dict(parts), **where})


def failures(found: Any, where: str = "") -> Iterator[str]:
    """Where in the result something failed, and why."""
    if isinstance(found, Mapping):
        if "failed" in found:
            yield f"{where}: {found['failed']}"
        for key, value in found.items():
            yield from failures(value, f"{where}, {key}" if where else str(key))


if __name__ == "__main__":
    sys.exit(main())
