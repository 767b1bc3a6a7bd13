"""Notes on latents: RUN/notes.json, one text per latent, outside the run's digest.

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
    """Notes on the run in `folder`. They are read from disk each time, since another browser may write them too."""

    folder: Path
    run: str
    """Fingerprint of the run."""

    def read(self) -> dict[str, str]:
        """Returns the notes by latent.

        Raises:
            ConfigError: if they are of an earlier run in this folder.
            CorruptDataError: if the file does not contain notes.
        """
        path = self.folder / FILE
        if not path.exists():
            return {}
        try:
            content = json.loads(path.read_bytes())
            run, notes = content["run"], content["notes"]
            is_notes = all(key.isdecimal() and isinstance(text, str) for key, text in notes.items())
        except (ValueError, KeyError, TypeError, AttributeError):
            is_notes = False
        if not is_notes:
            raise CorruptDataError(f"{path} does not contain notes", hint="repair it, or move it away")
        if run != self.run:
            message = f"{path} is of an earlier run in this folder ({run[:8]}, not {self.run[:8]})"
            raise ConfigError(message, hint="move it away: it is about other latents")
        return notes

    def write(self, latent: int, text: str) -> None:
        """Replaces the note on one latent; an empty text removes it. Safe for concurrent threads and processes."""
        (self.folder / artifact.LOG).mkdir(exist_ok=True)
        with FileLock(self.folder / artifact.LOG / "notes.lock"):
            notes = self.read()
            notes.pop(str(latent), None)
            if text.strip():
                notes[str(latent)] = text.strip()
            ordered = dict(sorted(notes.items(), key=lambda item: int(item[0])))
            artifact.write_json(self.folder / FILE, {"run": self.run, "notes": ordered})
