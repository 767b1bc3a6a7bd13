"""What people write of latents: RUN/notes.json, one text a latent, outside the run's digest.

{"run": fingerprint, "notes": {"123": "capital letters after a full stop"}}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact

FILE = "notes.json"


@dataclass(frozen=True)
class Notes:
    """The notes of the run in `folder`. They are read anew each time: another browser may write them too."""

    folder: Path
    run: str
    """Fingerprint of the run that they are of."""

    def read(self) -> dict[str, str]:
        """By latent.

        Raises:
            ConfigError: if they are of a run that lay here before.
            CorruptDataError: if the file is not one of notes.
        """
        path = self.folder / FILE
        if not path.exists():
            return {}
        try:
            held = json.loads(path.read_bytes())
            run, notes = held["run"], held["notes"]
            is_notes = all(key.isdecimal() and isinstance(text, str) for key, text in notes.items())
        except (ValueError, KeyError, TypeError, AttributeError):
            is_notes = False
        if not is_notes:
            raise CorruptDataError(f"{path} holds no notes", hint="repair it, or move it away")
        if run != self.run:
            message = f"{path} is of a run that lay here before ({run[:8]}, not {self.run[:8]})"
            raise ConfigError(message, hint="move it away: its latents are not these")
        return notes

    def write(self, latent: int, text: str) -> None:
        """Replaces the note of one latent; an empty text removes it. Threads and processes take turns."""
        (self.folder / artifact.LOG).mkdir(exist_ok=True)
        with FileLock(self.folder / artifact.LOG / "notes.lock"):
            notes = self.read()
            notes.pop(str(latent), None)
            if text.strip():
                notes[str(latent)] = text.strip()
            ordered = dict(sorted(notes.items(), key=lambda item: int(item[0])))
            artifact.write_json(self.folder / FILE, {"run": self.run, "notes": ordered})
