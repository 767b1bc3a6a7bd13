"""Reading a cache in the order of its text looks at each part of the manifest once, not once per pool or chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.evaluate.features import contexts, surroundings
from saepipe.evaluate.features.config import Features

from .conftest import HOOK, World


class Counted(tuple[Any, ...]):
    """A tuple that counts how many of its entries were gone through."""

    seen = 0

    def __iter__(self) -> Iterator[Any]:
        for entry in super().__iter__():
            Counted.seen += 1
            yield entry


def read(cache: Cache) -> int:
    """Reads all rows with their surroundings, in chunks as small as can be; returns the number of chunks."""
    num_chunks = 0
    for chunk in contexts.chunks(cache, HOOK, Features(num_tokens=None), size=1):
        surroundings.of_chunk(cache, "train", chunk)
        num_chunks += 1
    return num_chunks


def test_arrays_are_opened_and_the_manifest_is_gone_through_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    init = MappedRows.__init__

    def counted(self: MappedRows, folder: Any, name: str, files: Any) -> None:
        opened.append(name)
        init(self, folder, name, files)

    monkeypatch.setattr(MappedRows, "__init__", counted)
    cache = replace(world.cache, lines=Counted(world.cache.lines))
    _ = cache.layout, cache.array("position")  # what needs the manifest whatever is read
    Counted.seen = 0
    assert read(cache) > 20
    assert sorted(opened) == sorted(set(opened))
    assert Counted.seen <= len(cache.lines)
