"""Imports of dictionary_learning's pickles without a process each, which would take seconds to start."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from saepipe.train.formats import dictionary_learning, pickle_child, pickle_format
from saepipe.train.formats.source import Source
from saepipe.train.rundir.importing import Library, import_sae


def convert_here(path: Path, target: Path) -> Path:
    """Does in this process what the program of `pickle_format.convert` does in its own, without limits."""
    assert pickle_child.convert(path, target) == {}
    return target


def read_dictionary(folder: Path) -> Source:
    """Reads a folder of dictionary_learning."""
    with tempfile.TemporaryDirectory() as temporary:
        return dictionary_learning.source(folder, convert_here(folder / "ae.pt", Path(temporary) / "ae.safetensors"))


def import_here(path: Path, library: Library, cache: Path, out: Path, **settings: Any) -> Path:
    """Imports an SAE of any library."""
    with patch.object(pickle_format, "convert", convert_here):
        return import_sae(path, library, cache, out, allow_pickle_format=True, **settings)
