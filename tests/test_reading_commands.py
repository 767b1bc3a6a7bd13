"""Commands that only read answer without loading a model library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MADE = Path(__file__).parent / "fixtures" / "made_at_24f008c"
MODEL_LIBRARIES = ("torch", "transformers", "datasets", "sklearn")


@pytest.mark.parametrize(
    ("command", "may_load"),
    [
        ("compare RUNS --baseline runs/baseline/seed-0", ()),
        ("compare RUNS --format json", ()),
        ("cache info cache", ()),
        ("report RUNS --baseline runs/baseline/seed-0 --out OUT", ()),
        ("train --config half.json --dry-run", ("torch",)),  # a step of each run is timed
        ('evaluate RUNS --set metrics=[{"name":"core"}] --set features=null --dry-run', ("torch",)),
    ],
)
def test_what_only_reads_loads_no_model_library(command: str, may_load: tuple[str, ...], tmp_path: Path) -> None:
    runs = [f"runs/{variant}/seed-{seed}" for variant in ("baseline", "tanh") for seed in range(3)]
    out = str(tmp_path / "report.html")
    arguments = [part for word in command.split() for part in (runs if word == "RUNS" else [word.replace("OUT", out)])]
    code = (
        "import sys; from saepipe.cli import main; "
        f"code = main({arguments!r}); print(code, *[name for name in {MODEL_LIBRARIES} if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=MADE)
    exit_code, *loaded = answer.stdout.splitlines()[-1].split()
    assert exit_code == "0", answer.stderr
    assert set(loaded) <= set(may_load)
