"""Callable stages: `saepipe.harvest(config)` is `saepipe.harvest.run.harvest(config)`, with progress on stderr."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saepipe.data.terminal.progress import Progress


class Stage(ModuleType):
    """A package that can be called like the function of its own name in its `run.py`.

    Signature and docstring are those of the function, looked up on demand, since importing `run.py` imports torch.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function, with progress on stderr unless `progress` is given."""
        run = _run_function(self)
        if "progress" in kwargs:
            return run(*args, **kwargs)

        from rich.console import Console

        from saepipe.data.terminal.progress import Bar

        with reporting_to(Bar(Console(stderr=True, soft_wrap=True))) as progress:
            return run(*args, **kwargs, progress=progress)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_run_function(self))

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return _run_function(self).__doc__


def _run_function(stage: ModuleType) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(import_module(f"{stage.__name__}.run"), stage.__name__.rpartition(".")[2])
    return function


def callable_stage(name: str) -> None:
    """Makes the package `name` callable."""
    sys.modules[name].__class__ = Stage


@contextmanager
def reporting_to(progress: Progress) -> Iterator[Progress]:
    """Reports progress through `progress` alone, with the progress bars of other libraries disabled."""
    import datasets
    import transformers
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # loaded lazily

    datasets.disable_progress_bars()
    disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield progress
    finally:
        progress.finish()
