"""Notes on latents: RUN/notes.json, one text per latent, outside the run's digest.

{"run": fingerprint, "notes": {"123": "capital letters after a full stop"}, "digest": of the rest}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.remote.places import send

FILE = "notes.json"
_LATENT = re.compile("[0-9]{1,9}")


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
            CorruptDataError: if the file does not contain notes, or was changed.
        """
        path = self.folder / FILE
        if not path.exists():
            return {}
        run, notes = read_notes(path)
        if run != self.run:
            message = f"{path} is of an earlier run in this folder ({run[:8]}, not {self.run[:8]})"
            raise ConfigError(message, hint="move it away: it is about other latents")
        return notes

    def write(self, latent: int, text: str) -> None:
        """Replaces the note on one latent; an empty text removes it. Safe for concurrent threads and processes."""
        (self.folder / artifact.LOG).mkdir(exist_ok=True)
        with artifact.file_lock(self.folder / artifact.LOG / "notes.lock", timeout=-1):
            notes = self.read()
            notes.pop(str(latent), None)
            if text.strip():
                notes[str(latent)] = text.strip()
            ordered = dict(sorted(notes.items(), key=lambda item: int(item[0])))
            content = {"run": self.run, "notes": ordered}
            artifact.write_json(self.folder / FILE, content | {"digest": _digest(content)})
            send(self.folder / FILE)


def read_notes(path: Path) -> tuple[str, dict[str, str]]:
    """Returns the fingerprint of the run, and the notes by latent.

    Raises:
        CorruptDataError: if the file does not contain notes, or was changed by anything but a browser.
    """
    try:
        content = json.loads(path.read_bytes())
        digest = content.pop("digest", None)
        run, notes = content["run"], content["notes"]
        is_notes = isinstance(run, str) and all(
            _LATENT.fullmatch(key) and isinstance(text, str) for key, text in notes.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_notes = False
    if not is_notes:
        raise CorruptDataError(f"{path} does not contain notes", hint="repair it, or move it away")
    if digest is not None and digest != _digest(content):  # notes of earlier versions have none
        message = f"{path} was changed outside saepipe browse, or is damaged"
        raise CorruptDataError(message, hint='if the change is meant, remove the entry "digest"; or move the file away')
    return run, notes


def _digest(content: Mapping[str, Any]) -> str:
    """Returns the digest of the file's content but for the digest itself."""
    return xxhash.xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode())
