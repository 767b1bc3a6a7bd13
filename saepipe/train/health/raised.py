"""H21: an error that a component of a run raises stops this run, and names the component's file and line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from inspect import isfunction
from pathlib import Path

from saepipe.data.config.component import Component, plugin_stems
from saepipe.data.config.plugin_errors import AnswerError, shown_path, summary
from saepipe.data.errors import SaepipeError, is_out_of_memory
from saepipe.data.folders.health import Finding
from saepipe.train.config import TrainConfig


def raised_by_component(config: TrainConfig, error: Exception, when: str) -> Finding | None:
    """Returns the finding for an error that came from one of the run's components, or may have come from a plugin.

    Args:
        config: of the run.
        error: with its traceback.
        when: `in step 14`.

    Returns:
        None for every other error: a fault of ours, or of the machine.
    """
    if isinstance(error, SaepipeError) or is_out_of_memory(error):
        return None
    if isinstance(error, AnswerError):
        return Finding("H21", "error", f"{error} ({when}); correct it there", error.about)
    if located := locate(config, error):
        label, line = located
        return Finding("H21", "error", f"{label} raised {summary(error)} at {line}, {when}; correct it there", label)
    plugins = [label for label, component in _components(config) if plugin_stems(type(component))]
    if not plugins:
        return None
    listed = " and ".join(plugins)
    message = f"{summary(error)} {when}, in which the plugin's {listed} took part; check what it returns"
    return Finding("H21", "error", message, plugins[0])


def locate(config: TrainConfig, error: Exception) -> tuple[str, str] | None:
    """Returns the label of the component that was running when the error was raised, and `file:line` in its file."""
    labels = {file: label for label, component in _components(config) for file in _files(type(component))}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in labels:
            return labels[frame.filename], f"{shown_path(Path(frame.filename))}:{frame.lineno}"
    return None


def _files(component: type[Component]) -> set[str]:
    """Returns the file of a component's own methods, as their frames name it."""
    return {member.__code__.co_filename for member in vars(component).values() if isfunction(member)}


def _components(config: TrainConfig) -> Iterator[tuple[str, Component]]:
    yield f"architecture {config.sae.name}", config.sae
    yield from config.components()
