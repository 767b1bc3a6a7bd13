"""Writes results of bench scripts, with machine, versions and commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saepipe.data.folders.artifact import provenance

RESULTS = Path(__file__).parent / "results"


def write_result(name: str, claim: str, figures: Mapping[str, Any]) -> Path:
    """Writes results/<name>.json: the claim, its figures, and the machine and versions that they were measured with."""
    origin = {"machine": machine(), "versions": dict(provenance())}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"claim": claim, **figures, **origin}, indent=2) + "\n")
    return path


def machine() -> dict[str, Any]:
    """Returns processor, cores, and the load of the last minute; wall times mean little if it exceeds the cores."""
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def commit_of(checkout: Path) -> str:
    """Returns the commit of a checkout, abbreviated."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
