"""Typed, frozen configs; all mistakes in one are reported together, with line numbers and the nearest valid names."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self, cast, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from saepipe.data.config.bounds import MOST, check_path, check_text
from saepipe.data.config.mistakes import sentence
from saepipe.data.config.yaml_file import Lines, apply_override, read_yaml
from saepipe.data.errors import ConfigError

_SUFFIX = {"k": 10**3, "M": 10**6, "B": 10**9}


def parse_count(value: Any) -> Any:
    """Converts `10M`, `300k`, `1.5B` and `1e6` to whole numbers; leaves anything else for pydantic to validate."""
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9_]*\.?[0-9]+)([kMB])", value.strip())):
        value = float(match[1]) * _SUFFIX[match[2]]
    elif isinstance(value, str) and re.fullmatch(r"[0-9.]+[eE]\+?[0-9]+", value.strip()):
        value = float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, Field(le=MOST), BeforeValidator(parse_count)]
"""A whole number that may be written like `10M`."""


class Config(BaseModel):
    """A frozen value without side effects; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _check_plain(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses what pydantic would accept: true as a number, text that no file can hold, a path that cannot be."""
        kinds = plain_kinds(cls, info.field_name or "")
        for leaf in _plain_leaves(value, into_mappings=not any(map(_is_config, kinds))):
            if isinstance(leaf, bool) and kinds.isdisjoint({bool, Any}):
                raise ValueError(f"{str(leaf).lower()} is neither a number nor text here")
            if isinstance(leaf, str):
                (check_path if Path in kinds else check_text)(leaf)
        return value

    @classmethod
    def load(cls, path: Path | None = None, overrides: Sequence[str] = ()) -> Self:
        """Reads a YAML file (or starts from the defaults) and applies `a.b=c` overrides.

        Raises:
            ConfigError: listing all mistakes in one message.
        """
        raw, lines = read_yaml(path) if path else ({}, {})
        for override in overrides:
            apply_override(raw, override)
        return cls.parse(raw, source=str(path or "config"), lines=lines)

    @classmethod
    def of(cls, value: Self | Mapping[str, Any] | Path | str) -> Self:
        """Makes a config from a config, its plain data, or the path of its YAML file."""
        if isinstance(value, cls):
            return value
        return cls.load(Path(value)) if isinstance(value, Path | str) else cls.parse(cast(Mapping[str, Any], value))

    @classmethod
    def parse(cls, raw: Mapping[str, Any], *, source: str = "config", lines: Lines | None = None) -> Self:
        """Validates plain data; raises ConfigError listing all its mistakes."""
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise ConfigError(_explain(cls, raw, error, source, lines or {})) from None

    @classmethod
    def class_for(cls, raw: Mapping[str, Any]) -> type[Config]:
        """Returns the class that `raw` configures: this one, or the family member that its `name` selects."""
        return cls

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, including all defaults."""
        return self.model_dump(mode="json", by_alias=True)

    def stated(self, prefix: str = "") -> Iterator[str]:
        """Yields the dotted keys that do not have their defaults, and those of the names of components."""
        fields = type(self).model_fields
        for key, value in self:
            if key == "name" or value != fields[key].get_default(call_default_factory=True):
                yield from _stated(value, f"{prefix}{fields[key].alias or key}")

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def __repr__(self) -> str:
        """Shows what differs from the defaults, so that a signature with a default config fits a screen."""
        fields = type(self).model_fields
        changed = [(key, value) for key, value in self if value != fields[key].get_default(call_default_factory=True)]
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in changed)})"


def fingerprint(value: Any) -> str:
    """First sixteen hex digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lists the leaves that differ between two configs given as plain data, one line per leaf."""
    before, after = dict(flatten(old)), dict(flatten(new))
    return [
        f"{key}: {before.get(key, '(absent)')!r} -> {after.get(key, '(absent)')!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "(absent)") != after.get(key, "(absent)")
    ]


def _stated(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, Config):
        yield from value.stated(f"{key}.")
    elif isinstance(value, Mapping) and value:
        yield from (leaf for name, item in value.items() for leaf in _stated(item, f"{key}.{name}"))
    elif isinstance(value, list | tuple) and value:
        yield from (leaf for index, item in enumerate(value) for leaf in _stated(item, f"{key}.{index}"))
    else:
        yield key


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the leaves of nested dicts and lists as (`a.0.b`, value)."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flatten(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple) and value:
        for index, item in enumerate(value):
            yield from flatten(item, f"{prefix}.{index}" if prefix else str(index))
    else:
        yield prefix, value


def _explain(cls: type[Config], raw: Any, error: ValidationError, source: str, lines: Lines) -> str:
    """Lists all mistakes in one text, one per line."""
    mistakes = [_explain_item(cls, raw, dict(item), source, lines) for item in error.errors()]
    count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    return f"{source}: {count}\n" + "\n".join(f"  {mistake}" for mistake in mistakes)


def _explain_item(cls: type[Config], raw: Any, item: dict[str, Any], source: str, lines: Lines) -> str:
    location = tuple(item["loc"])
    line = next((lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), None)
    prefix = f"{source}:{line}: " if line else ""
    key = _shown(".".join(map(str, location))) or "(whole config)"
    if item["type"] == "extra_forbidden":
        names = _valid_keys(cls, raw, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(names)}"
        return f"{prefix}unknown key {key!r}; {advice}"
    if item["type"] == "missing":
        return f"{prefix}{key!r} is missing"
    message = sentence(item["type"], item.get("ctx", {}))
    if isinstance(item["input"], Mapping | list):
        return f"{prefix}{key}: {message}"
    return f"{prefix}{key} = {_shown(item['input'], repr)}: {message}"


def _shown(value: Any, form: Callable[[Any], str] = str) -> str:
    """Returns a value for a message: on one line, not long, and printable anywhere."""
    try:
        text = form(value)
    except ValueError:  # Python does not write out integers of more than 4,300 digits
        text = f"a number of {value.bit_length():,} bits"
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= 120 else f"{text[:120]}..."


def _valid_keys(cls: type[Config], raw: Any, path: Sequence[str | int]) -> list[str]:
    """The keys of the config class at `path`; empty if the path leads outside configs."""
    classes: list[type[Config]] = [cls]
    for part in path:
        field = classes[0].model_fields.get(str(part)) if classes else None
        if field is None and isinstance(part, str):  # the tag of a union member, which is not a key of `raw`
            classes = [candidate for candidate in classes if candidate.__name__.lower() == part]
            continue
        raw = dict(_children(raw)).get(part)
        if field:
            classes = list(config_classes(field.annotation))
        if classes and isinstance(raw, Mapping):
            classes = [candidate.class_for(raw) for candidate in classes]
    return [field.alias or name for name, field in classes[0].model_fields.items()] if classes else []


def _children(raw: Any) -> Iterable[tuple[str | int, Any]]:
    if isinstance(raw, Mapping):
        return raw.items()
    return enumerate(raw) if isinstance(raw, list | tuple) else ()


@cache
def plain_kinds(config: type[Config], field: str) -> frozenset[Any]:
    """The types within a field's type, at any depth: {tuple, int} of `tuple[int, ...]`."""
    return frozenset(_kinds(config.model_fields[field].annotation))


def _kinds(annotation: Any) -> Iterator[Any]:
    arguments = getattr(annotation, "__args__", ())
    yield get_origin(annotation) or annotation
    yield from (type(argument) for argument in arguments if isinstance(argument, bool))  # Literal[True]
    for argument in arguments:
        yield from _kinds(argument)


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Config)


def _plain_leaves(value: Any, into_mappings: bool) -> Iterator[Any]:
    """Yields the value, or the leaves of a list or mapping; a mapping that is a config of its own checks itself."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _plain_leaves(item, into_mappings)
    elif isinstance(value, Mapping) and into_mappings:
        yield from value
        yield from _plain_leaves(list(value.values()), into_mappings)
    elif not isinstance(value, Mapping):
        yield value


def config_classes(annotation: Any) -> Iterator[type[Config]]:
    """Yields the config classes within a field's type, such as `tuple[Penalty, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from config_classes(argument)
