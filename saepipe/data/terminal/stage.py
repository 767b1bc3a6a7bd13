"""Callable stages: `saepipe.harvest(config)` is `saepipe.harvest.run.harvest(config)`, with progress on stderr."""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from saepipe.data.terminal.progress import Progress


class Stage(ModuleType):
    """A package that can be called like the function of its own name in its `run.py`.

    Signature and docstring are those of the function, looked up on demand, since importing `run.py` imports torch.
    """

    supplied: Mapping[str, str] = MappingProxyType({})
    """Functions, as `module:name`, by the argument that they are for, unless the caller gives another."""

    @property
    def __call__(self) -> Callable[..., Any]:
        """The function, with what is supplied, and with progress on stderr unless `progress` is given."""
        return _called(_run_function(self), {argument: _late(place) for argument, place in self.supplied.items()})

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_run_function(self))

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        """The function's docstring below its signature, since `help` shows no signature of a module."""
        function = _run_function(self)
        return f"{function.__name__}{_written(inspect.signature(function))}\n\n{inspect.getdoc(function)}"


def _run_function(stage: ModuleType) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(import_module(f"{stage.__name__}.run"), stage.__name__.rpartition(".")[2])
    return function


def _late(place: str) -> Callable[..., Any]:
    """Returns the function at `module:name`, whose module is imported when it is called."""
    module, _, name = place.partition(":")
    return lambda *args, **kwargs: getattr(import_module(module), name)(*args, **kwargs)


def _called(function: Callable[..., Any], supplied: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        kwargs = {**supplied, **kwargs}
        if "progress" in kwargs:
            return function(*args, **kwargs)

        from rich.console import Console

        from saepipe.data.terminal.progress import Bar

        with reporting_to(Bar(Console(stderr=True))) as progress:
            return function(*args, **kwargs, progress=progress)

    return call


def _written(signature: inspect.Signature) -> str:
    """Formats a signature as it is written in the source, where annotations that are strings have no quotes."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(signature))


def callable_stage(name: str, **supplied: str) -> None:
    """Makes the package `name` callable; what is supplied are functions at `module:name`, imported when called."""
    stage = sys.modules[name]
    stage.__class__ = Stage
    cast(Stage, stage).supplied = supplied


_BARS = {
    "huggingface_hub.utils": "disable_progress_bars",
    "datasets": "disable_progress_bars",
    "transformers.utils.logging": "disable_progress_bar",
}
"""Functions that disable the bars of a library, by the module that has them."""


def _disable_progress_bars() -> None:
    """Disables the bars of the model libraries: in those imported already, and in those that will be.

    None is imported here, since most commands need none. transformers shows a bar only if the hub's client does.
    """
    for variable in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(variable, "1")
    for module, function in _BARS.items():
        if module in sys.modules:
            getattr(sys.modules[module], function)()


@contextmanager
def reporting_to(progress: Progress) -> Iterator[Progress]:
    """Reports progress through `progress` alone, with the progress bars of other libraries disabled."""
    _disable_progress_bars()
    try:
        yield progress
    finally:
        progress.finish()
