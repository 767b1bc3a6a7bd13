"""Mistakes in plugins: an error that a plugin raises, or a wrong answer of its, names the plugin's file and line."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saepipe.data.config.component import Component, plugin_files
from saepipe.data.errors import ConfigError, SaepipeError, is_out_of_memory


class AnswerError(TypeError):
    """A component's method returned something else than its family declares."""

    def __init__(self, component: Component, method: str, gave: str, wanted: str) -> None:
        self.about = component.name
        where = defined_at(type(component), method)
        super().__init__(f"{component.family} {component.name} ({where}) gave {gave}; wanted: {wanted}")


@contextmanager
def plugin_errors() -> Iterator[None]:
    """Turns an error that a plugin raises, or causes by its answer, into a ConfigError that says where."""
    try:
        yield
    except Exception as error:
        if explained := plugin_mistake(error):
            raise explained from error
        raise


def plugin_mistake(error: Exception) -> ConfigError | None:
    """Returns the ConfigError for an error from a plugin; None for every other."""
    if isinstance(error, SaepipeError) or is_out_of_memory(error):
        return None
    if isinstance(error, AnswerError):
        return ConfigError(str(error), hint="correct what it returns")
    if line := plugin_line(error):
        return ConfigError(f"{line} raised {summary(error)}", hint="correct the plugin there")
    return None


def plugin_line(error: Exception) -> str | None:
    """Returns `file:line` of the innermost frame in a plugin's file, if there is one."""
    files = plugin_files()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in files:
            return f"{shown_path(Path(frame.filename))}:{frame.lineno}"
    return None


def defined_at(component: type[Component], method: str) -> str:
    """Returns `file:line` of a component's method."""
    code = getattr(component, method).__code__
    return f"{shown_path(Path(code.co_filename))}:{code.co_firstlineno}"


def summary(error: Exception) -> str:
    """Returns the class and the first line of an error, and the nearest name for a misspelt attribute."""
    first_line = next(iter(str(error).splitlines()), "")[:200]
    names = dir(error.obj) if isinstance(error, AttributeError) and error.name else []
    near = difflib.get_close_matches(str(getattr(error, "name", "")), names, n=1)
    return f"{type(error).__name__}: {first_line}{f'; did you mean {near[0]!r}?' if near else ''}"


def shown_path(path: Path) -> Path:
    """Returns a path relative to the working directory, if it is below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
