"""Our SAEs in SAELens, dictionary_learning and sparsify, and theirs here: the largest differences, format by format.

    make interop                     # installs the libraries and runs the same tests
    pip install llamascopium==2.0.0b34; pip install --no-deps circuit-tracer==0.5.0
    python bench/interop.py          # runs the tests and writes their table

The tests compare encode and decode on random inputs and fail above 1e-4. Writes results/interop.json.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from record import write_result

ROOT = Path(__file__).parents[1]
LIBRARIES = ("sae-lens", "dictionary-learning", "eai-sparsify", "llamascopium", "circuit-tracer")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.json"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "interop"]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"SAEPIPE_INTEROP_TABLE": str(table)}, check=True)
        rows = json.loads(table.read_text())
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    write_result("interop", "every SAE computes the same in the library that owns the format", {
        "libraries": libraries, "formats": by_format(rows), "saes": rows,
    })  # fmt: skip
    for row in by_format(rows):
        numbers = (f"{row[key]:.1e} of {row[f'largest_{key}']:.3g}" for key in ("acts", "x_hat"))
        print(f"| {row['format']} | {row['direction']} | {row['saes']} | {' | '.join(numbers)} |")


def by_format(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the largest of each number over the SAEs of a format and direction, and the number of SAEs."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["format"], row["direction"]), []).append(row)
    keys = ("acts", "largest_acts", "x_hat", "largest_x_hat")
    return [
        {"format": name, "direction": direction, "saes": len(group)}
        | {key: max(row[key] for row in group) for key in keys}
        for (name, direction), group in sorted(groups.items())
    ]


if __name__ == "__main__":
    main()
