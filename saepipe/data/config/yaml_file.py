"""Reads plain data from a YAML file and `--set a.b=c`, with the line number of each key."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

import yaml

from saepipe.data.config.yaml_text import DEEPEST, LONGEST, compose, construct
from saepipe.data.errors import ConfigError

Lines = dict[tuple[str | int, ...], int]
"""Line number of each key, by the key's path: ("variants", 0, "name")."""


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Sets `a.b.0.c=value` in nested dicts and lists; the value is read as YAML.

    Raises:
        ConfigError: if it has no `=`, its value is not YAML, or its path leads through something that is neither a
            mapping nor a list.
    """
    key, equals, text = override.partition("=")
    shown = override if len(override) <= 200 else f"{override[:200]}..."
    if not equals or not key:
        raise ConfigError(f"--set {shown!r} is not of the form key=value", hint="--set a.b=c")
    try:
        value = construct(compose(text, key))
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ConfigError(
            f"--set {shown!r}: the value is not YAML ({reason})", hint="close brackets, add quotes"
        ) from None
    *parents, last = key.split(".")
    if len(parents) >= DEEPEST:
        raise ConfigError(f"--set {shown!r}: a key of {len(parents) + 1} parts", hint=f"at most {DEEPEST}")
    node: Any = raw
    for part in parents:
        node = node.setdefault(part, {}) if isinstance(node, dict) else _item(node, part, shown)
    if isinstance(node, dict):
        node[last] = value
    else:
        _item(node, last, shown)
        node[int(last)] = value


def _item(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
        return node[int(part)]
    raise ConfigError(
        f"--set {override!r}: there is no {part!r} in {reprlib.repr(node)}",
        hint="mapping keys are names; list items are numbers from 0",
    )


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """Reads a YAML mapping and the line number of each of its keys.

    Raises:
        ConfigError: if the file cannot be read, is not a mapping of plain data, exceeds a limit of
            `saepipe.data.config.yaml_text`, or contains a key twice.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST + 1)  # no more, since the path may be that of anything
        root = compose(text, str(path))
        value = construct(root)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}", hint="give an existing YAML file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not a valid config in YAML: {error}") from None
    if root is None:
        return {}, {}
    if not isinstance(root, yaml.MappingNode) or not isinstance(value, dict):
        raise ConfigError(f"{path} holds a {root.tag.rsplit(':', 1)[-1]}, not a mapping of keys to values")
    lines: Lines = {}
    _collect_lines(root, (), lines, path)
    return value, lines


def _collect_lines(node: yaml.Node, parent: tuple[str | int, ...], lines: Lines, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            location = (*parent, key.value)
            line = key.start_mark.line + 1
            if location in lines:
                name = ".".join(map(str, location))
                raise ConfigError(
                    f"{path}:{line}: duplicate key {name!r}, first on line {lines[location]}", hint="keep one"
                )
            lines[location] = line
            _collect_lines(value, location, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*parent, index)] = value.start_mark.line + 1
            _collect_lines(value, (*parent, index), lines, path)
