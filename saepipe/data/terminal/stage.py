"""The three stages as functions: `saepipe.harvest(config)` is `saepipe.harvest.run.harvest(config)`, told on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saepipe.data.terminal.progress import Progress


class Stage(ModuleType):
    """A package that is also what it does."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the function of the package's name in its `run.py`, with progress on stderr where none is given."""
        run = getattr(import_module(f"{self.__name__}.run"), self.__name__.rpartition(".")[2])
        if "progress" in kwargs:
            return run(*args, **kwargs)

        from rich.console import Console

        from saepipe.data.terminal.progress import Bar

        with watched(Bar(Console(stderr=True, soft_wrap=True))) as progress:
            return run(*args, **kwargs, progress=progress)


def callable_stage(name: str) -> None:
    """Lets the package `name` be called."""
    sys.modules[name].__class__ = Stage


@contextmanager
def watched(progress: Progress) -> Iterator[Progress]:
    """`progress` alone tells where a stage stands; the bars of the libraries below it stay off."""
    import datasets
    import transformers
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # lazily, and so unseen

    datasets.disable_progress_bars()
    disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield progress
    finally:
        progress.finish()
