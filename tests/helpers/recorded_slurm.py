"""Commands of Slurm that record their arguments, for machines without it; jobs are run by bash."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

_COMMAND = """#!{python}
import json, os, sys
with open({calls}, "a") as file:
    file.write(json.dumps([{name}, *sys.argv[1:]]) + "\\n")
print({says}, file=sys.stderr if {code} else sys.stdout)
sys.exit({code})
"""


class RecordedSlurm:
    """A folder of commands, first on the PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "slurm-commands"
        self.folder.mkdir()
        monkeypatch.setenv("PATH", str(self.folder), prepend=":")
        self.answers("sbatch", "123")
        self.answers("scontrol", "")

    def answers(self, name: str, says: str, code: int = 0) -> None:
        """Lets a command print a text and exit with a code, other than 0 on stderr."""
        values = {"name": repr(name), "says": repr(says), "calls": repr(str(self.folder / "calls"))}
        self.makes(name, _COMMAND, code=code, **values)

    def makes(self, name: str, script: str, /, **values: object) -> None:
        """Makes a command of a script, with this Python as its `python`."""
        path = self.folder / name
        path.write_text(script.format(python=shlex.quote(sys.executable), **values))
        path.chmod(0o755)

    @property
    def calls(self) -> list[list[str]]:
        """Names and arguments of the commands that were called, in order."""
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def recorded_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedSlurm:
    return RecordedSlurm(tmp_path, monkeypatch)
