"""Compares the text that is read again with the digests in the pools that were made of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from saepipe.data.cache.rank_manifests import read_lines
from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import Line
from saepipe.harvest.rows import WindowBatch


@dataclass(frozen=True)
class TextMarks:
    """Digests of the text up to the end of each training pool that was stored, by the number of batches until there.

    A digest covers all that was read by then, held-out windows included. Pools that must be made again count too.
    """

    source: str
    """the dataset, for messages"""
    by_batches: Mapping[int, Line]
    num_unmarked: int
    """training pools made by an earlier version, without a digest"""

    @classmethod
    def of(cls, cache: Path, source: str) -> TextMarks:
        lines = [line for line in read_lines(cache) if line.get("split") == "train"]
        marked = {line["batches"]: line for line in lines if "text" in line}
        num_pools = sum(line["kind"] == "pool" and "text" not in line for line in lines)
        return cls(source, marked, num_pools)

    def checked(self, batches: Iterable[WindowBatch]) -> Iterator[WindowBatch]:
        """Yields the batches, each only when the digests of all pools that it feeds have been compared.

        Raises:
            ConfigError: if the text, or what the tokenizer makes of it, has changed.
        """
        last, number = max(self.by_batches, default=0), 0
        held: list[WindowBatch] = []
        for number, batch in enumerate(batches, 1):
            held.append(batch)
            if number >= last or number in self.by_batches:
                self._compare(number, batch)
                rest = [batch] if number < last else []  # it may also feed the next pool, up to the next digest
                yield from held[: len(held) - len(rest)]
                held = rest
        if number < last:
            first = min(mark for mark in self.by_batches if mark > number)
            raise self._changed(self.by_batches[first], f"it ends after batch {number}")

    def _compare(self, number: int, batch: WindowBatch) -> None:
        line = self.by_batches.get(number)
        if line is not None and line["text"] != batch.text:
            raise self._changed(line, f"the tokens or the documents up to batch {number} are others")

    def _changed(self, line: Line, what: str) -> ConfigError:
        return ConfigError(
            f"the text of {self.source!r}, or its tokenizer, has changed since training pool {line['pool']} was made "
            f"of batches 1 to {line['batches']}: {what}",
            hint="restore the text that the cache was begun with (nothing was changed), or use another --out",
        )
