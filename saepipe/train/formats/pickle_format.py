"""Files in torch's pickle format (.pt), which can hold code: read only on request, and never in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats.source import require_file

_PROGRAM = Path(__file__).with_name("pickle_child.py")
_SECONDS = 900
_HINT = "save its tensors as safetensors with the library that wrote it"


def convert(path: Path, target: Path) -> Path:
    """Writes the plain tensors of a .pt file to `target`, as safetensors, and returns `target`.

    A process of its own loads them (`weights_only`), with limits on its memory, its time and what it writes.

    Raises:
        ConfigError: if there is no such file, or it holds something other than a state dict.
        CorruptDataError: if it cannot be loaded as plain tensors within the limits.
    """
    require_file(path)
    command = [sys.executable, "-P", str(_PROGRAM), str(path.absolute()), str(target.absolute())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        answer = {"error": f"not read within {_SECONDS} s"}
    except ValueError:
        answer = {"error": f"the process that read it ended with code {done.returncode}"}
    if "holds" in answer:
        raise ConfigError(f"{path} holds a {answer['holds']}, not a state dict of tensors")
    if "error" in answer:
        raise CorruptDataError(f"{path} does not load as plain tensors ({answer['error']})", hint=_HINT)
    return target
