"""Families of components that a config selects by name: architectures, penalties, metrics.

A family is a direct subclass of `Component`. A member subclasses the family, sets `name`, and lives in a file of its
own in the family's package; importing that file registers it. Files outside the package are added through
`plugins: [my_penalty.py]` in a config, or through the entry-point group `saepipe.components`.
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
from traceback import extract_tb
from typing import Any, ClassVar, Self

from pydantic import ValidatorFunctionWrapHandler, model_serializer, model_validator

from saepipe.data.config.base import Config
from saepipe.data.config.bounds import check_path
from saepipe.data.config.yaml_file import Lines
from saepipe.data.errors import ConfigError

_PLUGIN = "saepipe_plugin_"
"""Prefix of the module name of a plugin file."""

_entry_modules: set[str] = set()
"""Modules of installed plugins."""
_plugin_files: set[str] = set()
"""Plugin files that were imported, as frames name them."""


class Component(Config):
    """Settings with a `name`, plus one method that the family declares.

    A family sets `family` (its name in error messages) and `package` (the package of its members).
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
            return  # an abstract class between a family and its members
        registered = cls.members.setdefault(name, cls)
        if (registered.__module__, registered.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(
                f"two {cls.family} components are called {name!r}: {registered.__module__}.{registered.__qualname__} "
                f"and {cls.__module__}.{cls.__qualname__}",
                hint="rename one",
            )

    @classmethod
    def member(cls, name: str) -> type[Component]:
        """Returns the member called `name`; otherwise raises ConfigError with the nearest valid name."""
        import_members(cls.package)
        if name not in cls.members:
            near = difflib.get_close_matches(name, cls.members, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]!r}?" if near else f"valid names: {', '.join(sorted(cls.members))}"
            shown = name if len(name) <= 80 else f"{name[:80]}..."
            raise ConfigError(f"there is no {cls.family} called {shown!r}; {advice}")
        if missing := getattr(cls.members[name], "__abstractmethods__", None):
            raise ConfigError(f"{cls.family} {name} lacks {', '.join(sorted(missing))}", hint="define it in its class")
        return cls.members[name]

    @classmethod
    def class_for(cls, raw: Mapping[str, Any]) -> type[Config]:
        name = raw.get("name")
        return cls.members.get(name, cls) if isinstance(name, str) else cls

    @model_validator(mode="wrap")
    @classmethod
    def _choose_member(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        """Turns `{name: ..., settings}` into that member, for a field typed as the family."""
        if Component not in cls.__bases__ or not isinstance(value, dict):
            return handler(value)
        if not isinstance(value.get("name"), str):
            import_members(cls.package)
            raise ValueError(f"the {cls.family} needs a name; valid names: {', '.join(sorted(cls.members))}")
        return cls.member(value["name"]).model_validate(value)

    @model_serializer(mode="wrap")
    def _dump_all(self, handler: Any) -> Any:
        """Dumps the settings of the member, not only those of the family in the field's type."""
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
    """Imports all modules of a family's package, at any depth, and all installed plugins, once."""
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, prefix=f"{package}."):
        importlib.import_module(module.name)
    import_installed_plugins()


@cache
def import_installed_plugins() -> None:
    """Imports the components that installed packages register, once."""
    for entry in importlib.metadata.entry_points(group="saepipe.components"):
        _entry_modules.add(entry.module)
        entry.load()


def import_plugins(paths: Sequence[Path]) -> None:
    """Imports component files from outside the package, each once.

    Raises:
        ConfigError: if a file is missing or fails to import.
    """
    for path in paths:
        name = f"{_PLUGIN}{path.stem}"
        if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path.resolve()):
            continue
        spec = importlib.util.spec_from_file_location(name, path.resolve())
        if spec is None or spec.loader is None or not path.is_file():
            raise ConfigError(f"plugin {path} is not a Python file", hint="give the path of a .py file")
        module = importlib.util.module_from_spec(spec)
        _plugin_files.add(str(path.resolve()))
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            raise ConfigError(f"plugin {path}{_line_in(path, error)} fails to import: {_named(error)}") from error


def _line_in(path: Path, error: Exception) -> str:
    """Returns `:12`, the line of a file at which its import failed, if the error tells."""
    if isinstance(error, SyntaxError) and error.filename == str(path.resolve()):
        return f":{error.lineno}"
    lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(path.resolve())]
    return f":{lines[-1]}" if lines else ""


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _is_path(value: Any) -> bool:
    try:
        return isinstance(value, Path | str) and bool(check_path(str(value)))
    except ValueError:
        return False


def plugin_files() -> set[str]:
    """Returns the files of all plugins that were imported, as the frames of a traceback name them."""
    return _plugin_files | {str(getattr(sys.modules.get(name), "__file__", None)) for name in _entry_modules}


def is_plugin_module(name: str) -> bool:
    """Returns whether a module comes from a plugin file or from an installed plugin."""
    return name.startswith(_PLUGIN) or name in _entry_modules


def is_plugin(component: type[Component]) -> bool:
    """Returns whether a component or one of its base classes comes from outside the package."""
    return any(is_plugin_module(base.__module__) for base in component.__mro__)


def plugin_stems(component: type[Component]) -> set[str]:
    """Returns the stems of the plugin files that a component and its base classes come from."""
    modules = {base.__module__ for base in component.__mro__}
    return {module.removeprefix(_PLUGIN) for module in modules if module.startswith(_PLUGIN)}


class ConfigWithPlugins(Config):
    """A config whose components may come from files outside the package."""

    plugins: tuple[Path, ...] = ()
    """Python files, imported before the config is read."""

    @classmethod
    def parse(cls, raw: Mapping[str, Any], *, source: str = "config", lines: Lines | None = None) -> Self:
        paths = raw.get("plugins")
        if isinstance(paths, list | tuple) and all(map(_is_path, paths)):  # otherwise validation reports what is wrong
            import_plugins([Path(path) for path in paths])
        return super().parse(raw, source=source, lines=lines)
