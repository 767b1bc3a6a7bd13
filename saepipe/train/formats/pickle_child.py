"""Program that turns one file in torch's pickle format into safetensors, within limits. It imports nothing of saepipe.

    python -P pickle_child.py SOURCE TARGET

Writes one JSON object to stdout: {} on success, {"error": the kind of exception}, or {"holds": what it holds instead}.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

_SECONDS = 600
_LEAST = 1 << 30
"""Bytes that even a small file may take."""


def limit(source: Path) -> None:
    """Limits memory to a few times the file beyond what torch itself has taken, and the target and the time too."""
    size = source.stat().st_size
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for kind, most in (
        (resource.RLIMIT_AS, taken + _LEAST + 4 * size),
        (resource.RLIMIT_FSIZE, _LEAST + 4 * size),
        (resource.RLIMIT_CPU, _SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def convert(source: Path, target: Path) -> dict[str, str]:
    """Writes the state dict in `source` to `target`; returns the answer to print."""
    value = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(value, dict) or not all(
        isinstance(key, str) and isinstance(tensor, torch.Tensor) for key, tensor in value.items()
    ):
        return {"holds": type(value).__name__}
    save_file({key: tensor.detach().clone().contiguous() for key, tensor in value.items()}, target)
    return {}


if __name__ == "__main__":
    limit(Path(sys.argv[1]))
    try:
        answer = convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:  # an unpickler may raise anything; its message may advise to trust the file
        answer = {"error": type(error).__name__}
    print(json.dumps(answer))
