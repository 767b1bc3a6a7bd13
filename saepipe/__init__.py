"""Harvest a language model's activations once; train and evaluate many sparse autoencoders from them.

    import saepipe as sp

    cache = sp.harvest({"num_tokens": "300k"}, "cache")
    runs = sp.train("study.yaml", "runs")
    sp.evaluate(runs)
    sp.compare(runs)

The command line (`saepipe.cli`) calls these same functions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saepipe.data.cache.cache import Cache
    from saepipe.data.cache.cache import open_cache as open_cache
    from saepipe.evaluate.compare.table import Table, compare
    from saepipe.evaluate.export.run import export
    from saepipe.evaluate.report.run import report
    from saepipe.evaluate.run import evaluate as evaluate
    from saepipe.evaluate.use.finished_run import Run, open_run
    from saepipe.evaluate.use.sae import SAE, load
    from saepipe.harvest.run import harvest as harvest
    from saepipe.train.run import train as train

__all__ = [
    "SAE",
    "Cache",
    "Run",
    "Table",
    "compare",
    "evaluate",
    "export",
    "harvest",
    "load",
    "open_cache",
    "open_run",
    "report",
    "train",
]

_STAGES = ("harvest", "train", "evaluate")
_HOME = {
    "Cache": "data.cache.cache",
    "open_cache": "data.cache.cache",
    "SAE": "evaluate.use.sae",
    "Run": "evaluate.use.finished_run",
    "load": "evaluate.use.sae",
    "open_run": "evaluate.use.finished_run",
    "Table": "evaluate.compare.table",
    "compare": "evaluate.compare.table",
    "export": "evaluate.export.run",
    "report": "evaluate.report.run",
}


def __getattr__(name: str) -> Any:
    """Imports the public names when they are first used, so that `saepipe --help` needs no torch."""
    if name in _STAGES:
        return import_module(f"saepipe.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'saepipe' has no attribute {name!r}")
    return getattr(import_module(f"saepipe.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
