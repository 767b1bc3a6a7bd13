"""Runs a Python file as if only some distributions were installed: bare_machine.py NAME,NAME,... FILE ARGUMENT..."""

from __future__ import annotations

import runpy
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name


class Without:
    """Finds modules on the path, but none of the hidden packages."""

    find_distributions = staticmethod(PathFinder.find_distributions)

    def __init__(self, hidden: set[str]) -> None:
        self._hidden = hidden

    def find_spec(self, name: str, *more: Any) -> ModuleSpec | None:
        return None if name.partition(".")[0] in self._hidden else PathFinder.find_spec(name, *more)


def main() -> None:
    installed = {canonicalize_name(name) for name in sys.argv[1].split(",")}
    owners = packages_distributions().items()
    hidden = {package for package, names in owners if not installed & {canonicalize_name(name) for name in names}}
    finders: list[Any] = sys.meta_path
    finders[finders.index(PathFinder)] = Without(hidden)
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
