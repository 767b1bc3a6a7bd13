"""Paths of a cache's arrays, which only layout.py may spell."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import saepipe
from saepipe.data.cache.codecs import Profile
from saepipe.data.cache.layout import FOLDERS, SPLITS, Layout

PACKAGE = Path(saepipe.__file__).parent
ARRAY_PATH = re.compile(r"\b(acts|norm|stats|int8|heldout)/|^context_id$")
ARRAY_CALLS = {"MappedRows", "RowArray", "array"}
"""Calls that take a path. Paths such as `position` are common words elsewhere."""


def strings(tree: ast.Module) -> Iterator[str]:
    """Yields all strings but docstrings; a formatted value in an f-string becomes `{}`."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | inner:
            yield node.value


def call_arguments(tree: ast.Module) -> Iterator[str]:
    """Yields the strings passed to functions that take the path of an array."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rsplit(".", 1)[-1] in ARRAY_CALLS:
            parts = [part for argument in node.args for part in getattr(argument, "values", [argument])]
            yield from (part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))


def test_no_other_file_spells_the_path_of_an_array() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).as_posix() == "data/cache/layout.py":
            continue
        tree = ast.parse(path.read_text())
        spelled = [text for text in strings(tree) if ARRAY_PATH.search(text)]
        spelled += [text for text in call_arguments(tree) if text.split("/")[0] in FOLDERS]
        assert not spelled, path


def test_the_scan_finds_spelled_paths() -> None:
    tree = ast.parse(
        'read(f"acts/{hook}", "norm/" + hook); array("position"); MappedRows(folder, f"{prefix}keep", files)'
    )
    assert {text for text in strings(tree) if ARRAY_PATH.search(text)} == {"acts/{}", "norm/"}
    assert {*call_arguments(tree)} == {"position", "keep"}


@pytest.mark.parametrize("profile", ["none", "lossless", "int8"])
def test_all_arrays_are_in_the_folders(profile: Profile) -> None:
    hook = "blocks.1.hook_resid_post"
    layout = Layout({hook: 40}, 16, 128, 64, profile)
    paths = [path for split in SPLITS for path in (*layout.row_arrays(split), *layout.context_arrays(split))]
    paths += [array.name for array in (*layout.channels(hook), layout.shard_noise(hook))]
    paths += [layout.shard_moments(hook, ("mean",)).name, layout.stats(hook)]
    assert {path.split("/")[0] for path in paths} == set(FOLDERS)
    assert len(paths) == len(set(paths))
