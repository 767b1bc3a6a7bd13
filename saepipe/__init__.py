"""Harvest a language model's activations once; train and evaluate many sparse autoencoders from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saepipe.data.cache import Cache
    from saepipe.train.load import SAE, load

__all__ = ["SAE", "Cache", "load"]

_HOME = {"load": "saepipe.train.load", "SAE": "saepipe.train.load", "Cache": "saepipe.data.cache"}


def __getattr__(name: str) -> Any:
    """Imports the public names when they are first used, so that `saepipe --help` needs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'saepipe' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
