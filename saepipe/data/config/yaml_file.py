"""Reads plain data from a YAML file and `--set a.b=c`, with the line number of each key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

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
    if not equals or not key:
        raise ConfigError(f"--set {override!r} is not of the form key=value", hint="--set a.b=c")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"--set {override!r}: the value is not YAML ({reason})", hint="close brackets, add quotes"
        ) from None
    *parents, last = key.split(".")
    node: Any = raw
    for part in parents:
        node = node.setdefault(part, {}) if isinstance(node, dict) else _item(node, part, override)
    if isinstance(node, dict):
        node[last] = value
    else:
        _item(node, last, override)
        node[int(last)] = value


def _item(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
        return node[int(part)]
    raise ConfigError(
        f"--set {override!r}: there is no {part!r} in {node!r}",
        hint="mapping keys are names; list items are numbers from 0",
    )


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """Reads a YAML mapping and the line number of each of its keys.

    Raises:
        ConfigError: if the file cannot be read, is not a mapping, or contains a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}", hint="give an existing YAML file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if root is None:
        return {}, {}
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path} holds a {root.tag.rsplit(':', 1)[-1]}, not a mapping of keys to values")
    lines: Lines = {}
    _collect_lines(root, (), lines, path)
    return yaml.safe_load(text), lines


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
