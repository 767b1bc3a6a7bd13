"""Names of folders in object storage, `s3://bucket/key`, and the local folder that mirrors each of them.

Every path of saepipe may be such an address. Code that reads or writes files gets the mirror's path instead, which says
by itself what it mirrors; what people read says the address again.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from saepipe.data.errors import ConfigError

_ADDRESS = re.compile(r"(s3|gs|az):/{1,2}([^/]+)/*(.*)", re.DOTALL)  # one slash: as Path writes it


def cache_folder() -> Path:
    """Returns the user's cache folder of saepipe: `$XDG_CACHE_HOME/saepipe`, by default `~/.cache/saepipe`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saepipe"


def mirrors() -> Path:
    """Returns the folder of all mirrors: `$SAEPIPE_MIRRORS`, by default `mirrors` in the user's cache folder."""
    return Path(os.environ.get("SAEPIPE_MIRRORS") or cache_folder() / "mirrors").absolute()


@dataclass(frozen=True)
class Address:
    """A folder or file in object storage; its key is empty if it is the whole bucket."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> Address:
        return Address(self.scheme, self.bucket, f"{self.key}/{name}" if self.key else name)

    @property
    def mirror(self) -> Path:
        """The local folder that mirrors it."""
        return mirrors() / self.scheme / self.bucket / self.key


def address_of(path: Path | str) -> Address | None:
    """Returns the address that a path is; None if it is an ordinary path.

    Raises:
        ConfigError: if its key is not a plain relative path.
    """
    if not (match := _ADDRESS.fullmatch(str(path))):
        return None
    key = match[3].rstrip("/")
    if {"", ".", ".."} & set(key.split("/")) and key:
        raise ConfigError(f"{path} is not an address in a bucket", hint="s3://bucket/folder")
    return Address(match[1], match[2], key)


def mirrored(path: Path) -> Address | None:
    """Returns the address that a local path mirrors; None if it mirrors none."""
    parts = path.relative_to(root).parts if path.is_relative_to(root := mirrors()) else ()
    return Address(parts[0], parts[1], "/".join(parts[2:])) if len(parts) > 1 else None


def refuse_address(path: Path) -> None:
    """Raises ConfigError if a path that is to be written as it is would be an address."""
    if address := address_of(path):
        raise ConfigError(f"{address}: this command writes local folders only", hint="write to one, and copy it")


def shown(text: object) -> str:
    """Returns text for people: with addresses in place of their mirrors, and with both slashes."""
    plain = re.sub(rf"{re.escape(str(mirrors()))}/(s3|gs|az)/", r"\1://", str(text))
    return re.sub(r"\b(s3|gs|az):/(?=[^/\s])", r"\1://", plain)
