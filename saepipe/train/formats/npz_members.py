"""Archives of numpy arrays (.npz): what they declare is compared with their bytes before an array is allocated."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

from numpy.lib import format as npy

MAX_RATIO = 32
"""Largest ratio of an archive's arrays to its file; weights hardly shrink at all."""
_SPARE = 1 << 20
"""Bytes that even a small archive may hold."""
_MAX_HEADER = 1 << 12


def check_members(path: Path) -> None:
    """Raises ValueError or zipfile.BadZipFile unless the archive holds plain numbers of the sizes that it declares."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        size, most = sum(member.file_size for member in members), MAX_RATIO * path.stat().st_size + _SPARE
        if size > most:
            raise ValueError(f"its arrays would have {size:,} bytes, more than {most:,}")
        for member in members:
            _check_member(archive, member)


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    with archive.open(member) as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{member.filename} has numpy's format {version}")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file, max_header_size=_MAX_HEADER)
        start = file.tell()
    if dtype.kind not in "fiu" or dtype.hasobject:
        raise ValueError(f"{member.filename} holds {dtype}, not numbers")
    if any(length < 0 for length in shape) or start + math.prod(shape) * dtype.itemsize != member.file_size:
        raise ValueError(f"{member.filename} declares {shape} {dtype}, but has {member.file_size:,} bytes")
