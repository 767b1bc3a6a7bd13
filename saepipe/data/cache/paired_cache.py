"""Two caches of the same tokens by two models, as one: what a crosscoder that compares the models reads.

The hooks of the second cache have the prefix `other:`. Everything else, such as the tokens, is the first cache's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np

from saepipe.data.cache.activations import Activations
from saepipe.data.cache.cache import ActivationStats, Cache, Heldout
from saepipe.data.cache.layout import Layout
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import ConfigError

OTHER = "other:"


def is_other(hook: str) -> bool:
    """Returns whether a hook is one of the second cache."""
    return hook.startswith(OTHER)


def own_name(hook: str) -> str:
    """Returns a hook as its own cache names it."""
    return hook.removeprefix(OTHER)


@dataclass(frozen=True, repr=False)
class PairedCache(Cache):
    """The first cache, with the hooks of the second as well."""

    other: Cache

    @classmethod
    def of(cls, own: Cache, other: Cache) -> PairedCache:
        """Pairs two caches; raises ConfigError if their rows or held-out contexts are not of the same tokens."""
        _check_same_tokens(own, other)
        return cls(**{field.name: getattr(own, field.name) for field in fields(own)}, other=other)

    @property
    def identity(self) -> str:
        return f"{self.fingerprint} and {self.other.fingerprint}"

    @property
    def hooks(self) -> tuple[str, ...]:
        return (*super().hooks, *(OTHER + hook for hook in self.other.hooks))

    @property
    def widths(self) -> Mapping[str, int]:
        return {**super().widths, **{OTHER + hook: width for hook, width in self.other.widths.items()}}

    def rows(self, hook: str) -> MappedRows:
        return self.other.rows(own_name(hook)) if is_other(hook) else super().rows(hook)

    def acts(self, hook: str | None = None) -> Activations:
        return self.other.acts(own_name(hook)) if hook and is_other(hook) else super().acts(hook)

    def stats(self, hook: str) -> ActivationStats:
        return self.other.stats(own_name(hook)) if is_other(hook) else super().stats(hook)

    @cached_property
    def heldout(self) -> Heldout:
        own, rows = super().heldout, {OTHER + hook: rows for hook, rows in self.other.heldout.rows.items()}
        return replace(own, rows={**own.rows, **rows})


def _check_same_tokens(own: Cache, other: Cache) -> None:
    if own.fingerprint == other.fingerprint:
        raise ConfigError(f"{own.path} and {other.path} are the same cache", hint="other_cache is of another model")
    names = [Layout.CONTEXT_ID, Layout.POSITION, Layout.contexts("train")]
    heldout = [Layout.contexts("heldout"), Layout.keep("heldout")]
    if own.attributes["num_heldout_contexts"] or other.attributes["num_heldout_contexts"]:
        names += heldout
    for name in names:
        ours, theirs = (array.read(0, array.num_rows) for array in (cache.array(name) for cache in (own, other)))
        if not np.array_equal(ours, theirs):
            raise ConfigError(
                f"{own.path} and {other.path} do not hold the same tokens in the same order ({name} differs)",
                hint="harvest both with the same text, tokenizer, seed and sizes; only the model may differ",
            )
