"""Runs a script or a module on several ranks of this machine, as a user's torchrun does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def torchrun(
    num_ranks: int,
    arguments: Sequence[str],
    *,
    max_restarts: int = 0,
    environment: Mapping[str, str] = os.environ,
    seconds: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Runs `arguments` (a script, or -m and a module, and its arguments) on ranks with one torch thread each."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    return subprocess.run(
        [*launcher, f"--max-restarts={max_restarts}", *arguments],
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
