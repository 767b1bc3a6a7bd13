"""`log/train.jsonl`: a line per process that trained the run, with what its numbers may depend on; in no digest."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from saepipe.data.folders.artifact import LOG, provenance

FILE = "train.jsonl"


def log_process(folder: Path, step: int, device: str) -> list[str]:
    """Appends a line for this process, which goes on from `step`; returns in what it differs from the one before."""
    path = folder / LOG / FILE
    settings = {**provenance(), "device": device, "threads": torch.get_num_threads()}
    differing = [
        f"{key} {before} -> {settings[key]}"
        for key, before in _last(path).items()
        if key in settings and before != settings[key]
    ]
    origin = {"time": time.time(), "host": platform.node(), "pid": os.getpid(), "step": step}
    with path.open("a") as file:
        file.write(json.dumps({**origin, "settings": settings}) + "\n")
    return differing


def _last(path: Path) -> Mapping[str, Any]:
    """Returns the settings of the process before; nothing if there was none or its line is damaged."""
    try:
        settings = json.loads(path.read_bytes().splitlines()[-1])["settings"]
    except (OSError, IndexError, ValueError, KeyError, TypeError):
        return {}
    return settings if isinstance(settings, dict) else {}
