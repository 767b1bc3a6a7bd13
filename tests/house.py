"""The plan of the package, measured from its imports: `python tests/house.py [CHECKOUT]`.

A room is a folder or a loose file of a stage. A room stands on the floor above the highest room that it imports from;
the ground floor imports from no other room of its stage.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

STAGES = ("data", "harvest", "train", "evaluate")
ROLES = {"__init__", "config", "run", "plan", "base", "metric"}
"""File names that mean the same wherever they stand."""

Graph = dict[str, set[str]]
"""What each module, or each room, imports from."""


def module_name(path: Path, package: Path) -> str:
    """`saepipe/train/sae/base.py` as `train.sae.base`."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """Modules of the package that a file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "saepipe":
            parent = node.module.removeprefix("saepipe").lstrip(".")
            for alias in node.names:
                name = f"{parent}.{alias.name}".lstrip(".")
                yield name if name in modules else parent
        elif isinstance(node, ast.Import):
            yield from (alias.name[8:] for alias in node.names if alias.name.startswith("saepipe."))


def module_imports(package: Path) -> Graph:
    """The import graph of the package, files to files; what belongs to no file (the package itself) is left out."""
    modules = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    return {name: set(imported(path, modules)) & modules.keys() - {name, ""} for name, path in modules.items()}


def room_imports(graph: Graph, stage: str) -> Graph:
    """The import graph between the rooms of one stage."""
    rooms: Graph = {room: set() for name in graph if (room := room_of(name, stage))}
    for name, targets in graph.items():
        if here := room_of(name, stage):
            rooms[here] |= {there for target in targets if (there := room_of(target, stage)) and there != here}
    return rooms


def room_of(module: str, stage: str) -> str | None:
    """`train.sae.base` stands in the room `sae` of train."""
    parts = module.split(".")
    return parts[1] if parts[0] == stage and len(parts) > 1 else None


def floors(rooms: Graph) -> list[list[str]]:
    """Rooms by floor, ground floor first.

    Raises:
        CycleError: if rooms import each other in a circle.
    """
    levels: dict[str, int] = {}
    for room in TopologicalSorter(rooms).static_order():
        levels[room] = 1 + max((levels[target] for target in rooms[room]), default=-1)
    return [sorted(room for room in levels if levels[room] == level) for level in range(1 + max(levels.values()))]


def circle(graph: Graph) -> list[str]:
    """Returns a circle of imports; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def twice(package: Path) -> dict[str, int]:
    """File names that stand in two folders or more, less those that name a role."""
    counts = Counter(path.stem for path in package.rglob("*.py") if path.stem not in ROLES)
    return {name: count for name, count in sorted(counts.items()) if count > 1}


def main(checkout: Path) -> None:
    package = checkout / "saepipe"
    graph = module_imports(package)
    print(f"{'stage':10}{'rooms':>7}{'floors':>8}{'imports':>9}{'loose files':>13}  circle of rooms")
    for stage in STAGES:
        rooms = room_imports(graph, stage)
        loose = sum(path.suffix == ".py" and path.stem != "__init__" for path in (package / stage).iterdir())
        looped = circle(rooms)
        height = "-" if looped else len(floors(rooms))
        arrows = sum(map(len, rooms.values()))
        print(f"{stage:10}{len(rooms):7}{height:>8}{arrows:9}{loose:13}  {' -> '.join(looped) or 'none'}")
    print(f"circle of files: {' -> '.join(circle(graph)) or 'none'}")
    print(f"names in two folders or more: {', '.join(f'{name} ({count})' for name, count in twice(package).items())}")
    lines = [len(path.read_text().splitlines()) for path in package.rglob("*.py")]
    print(f"Python files {len(lines)}, lines {sum(lines):,}, longest {max(lines)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1])
