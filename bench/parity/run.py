"""Comparison with sae-bench 0.6.0, in its own environment, on the same tiny Gemma-2, SAEs and text.

    python bench/parity/run.py --saebench-python /path/to/venv/bin/python [--folder KEEP]

Prints one row per key, and writes bench/results/parity.json. Exit code 1 if a row differs. See bench/parity/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))

import ablation
import absorption
import core
import material
from record import write_result
from table import Row

CLAIM = (
    "mode: reference equals sae-bench 0.6.0: core to 1e-4 on every key; absorption word by word, given words, "
    "direction and latents; SCR and TPP by the closed form, given activations, probes and examples"
)
HERE = Path(__file__).parent
PARTS = ("core", "absorption", "ablation")
PACKAGES = ("sae-bench", "sae-lens", "transformer-lens", "transformers", "torch", "numpy")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saebench-python", required=True, help="python of an environment made from requirements.txt")
    parser.add_argument("--folder", type=Path, help="keeps the files here (default: a temporary folder)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with torch.enable_grad():
            inputs = material.make(folder)
            absorption.prepare(inputs)
            ablation.prepare(inputs)
        for part in PARTS:
            run_reference(args.saebench_python, part, folder)
        rows = [row for part in (core, absorption, ablation) for row in part.compare(inputs)]
    for row in rows:
        print(row)
    different = [row for row in rows if not row.equal]
    print(f"{len(rows)} rows, {len(different)} different")
    write_result("parity", CLAIM, {"reference": versions(args.saebench_python), **summary(rows)})
    return bool(different)


def run_reference(python: str, part: str, folder: Path) -> None:
    """Runs one of the reference's scripts; prints its messages only if it fails."""
    environment = os.environ | {"JAXTYPING_DISABLE": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "huggingface")}
    script = HERE / "reference" / f"{part}.py"
    process = subprocess.run([python, str(script), str(folder)], env=environment, capture_output=True, text=True)
    if process.returncode:
        sys.exit(f"{script.name} failed:\n{process.stderr[-4000:]}")


def versions(python: str) -> dict[str, str]:
    """Returns the versions of the reference's packages."""
    code = f"import json, importlib.metadata as m; print(json.dumps({{p: m.version(p) for p in {PACKAGES}}}))"
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def summary(rows: list[Row]) -> dict[str, object]:
    """Returns the number of rows and the largest difference, in all and by part, and the printed table."""
    parts = defaultdict(list)
    for row in rows:
        parts[row.part].append(row)
    return {
        "rows": len(rows),
        "different": sum(not row.equal for row in rows),
        "parts": {
            part: {"rows": len(group), "largest_difference": max(row.difference for row in group)}
            for part, group in parts.items()
        },
        "table": [str(row) for row in rows],
    }


if __name__ == "__main__":
    sys.exit(main())
