"""Families of parts that a config names: architectures, penalties, metrics.

A family is a class that subclasses `Component` directly; a member subclasses the family, sets `name`, and lives in
a file of its own in the family's package. Importing the file is all the registration there is. Files from outside
join through `plugins: [my_penalty.py]` in a config, or the entry-point group `saepipe.components`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ValidatorFunctionWrapHandler, model_serializer, model_validator

from saepipe.data.config.base import Config
from saepipe.data.config.yaml_file import Lines
from saepipe.data.errors import ConfigError


class Component(Config):
    """Settings with a `name`, and (in its family) one method.

    A family declares `family` (the word for it in errors) and `package` (where its members live).
    """

    family: ClassVar[str]
    package: ClassVar[str]
    members: ClassVar[dict[str, type[Component]]]
    name: str

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if Component in cls.__bases__:
            cls.members = {}
            return
        name = cls.model_fields["name"].default
        if not isinstance(name, str):
            return  # an abstract step between a family and its members
        known = cls.members.setdefault(name, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(
                f"two {cls.family} components are called {name!r}: {known.__module__}.{known.__qualname__} "
                f"and {cls.__module__}.{cls.__qualname__}",
                hint="rename one",
            )

    @classmethod
    def member(cls, name: str) -> type[Component]:
        """The member called `name`; raises ConfigError with the nearest right name."""
        import_members(cls.package)
        if name not in cls.members:
            near = difflib.get_close_matches(name, cls.members, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(cls.members))}"
            raise ConfigError(f"there is no {cls.family} called {name!r}; {advice}")
        return cls.members[name]

    @classmethod
    def chosen_by(cls, raw: Mapping[str, Any]) -> type[Config]:
        return cls.members.get(raw.get("name", ""), cls)

    @model_validator(mode="wrap")
    @classmethod
    def _choose_member(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """A field typed as the family takes `{name: ..., settings}` and becomes that member."""
        if Component not in cls.__bases__ or not isinstance(value, dict):
            return handler(value)
        if not isinstance(value.get("name"), str):
            raise ValueError(f"a {cls.family} needs a name")
        return cls.member(value["name"]).model_validate(value)

    @model_serializer(mode="wrap")
    def _dump_all(self, handler: Any) -> Any:
        """Settings of the member, not only those of the family that the field was declared with."""
        return {name: _plain(getattr(self, name)) for name in type(self).model_fields}


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


@cache
def import_members(package: str) -> None:
    """Imports each module of a family's package, at any depth, and the installed plugins, once."""
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, prefix=f"{package}."):
        importlib.import_module(module.name)
    for entry in importlib.metadata.entry_points(group="saepipe.components"):
        entry.load()


def import_plugins(paths: Sequence[Path]) -> None:
    """Imports component files from outside the package, each once.

    Raises:
        ConfigError: if a file is missing or fails to import.
    """
    for path in paths:
        name = f"saepipe_plugin_{path.stem}"
        if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path.resolve()):
            continue
        spec = importlib.util.spec_from_file_location(name, path.resolve())
        if spec is None or spec.loader is None or not path.is_file():
            raise ConfigError(f"plugin {path} is not a Python file", hint="give the path of a .py file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise ConfigError(f"plugin {path} fails to import: {type(error).__name__}: {error}") from error


class ConfigWithPlugins(Config):
    """A config whose components may come from files outside the package."""

    plugins: tuple[Path, ...] = ()
    """Python files; each is imported before the config is read."""

    @classmethod
    def parse(cls, raw: Mapping[str, Any], *, source: str = "config", lines: Lines | None = None) -> Self:
        paths = raw.get("plugins")
        if isinstance(paths, list | tuple):  # else validation says what it should be
            import_plugins([Path(path) for path in paths])
        return super().parse(raw, source=source, lines=lines)
