"""The text of single pools: where each begins, and the windows that feed it, before any pass of the model.

Which rows a batch gives follows from its tokens alone, unless rows are left out for their norm. So one reader of the
text can hand out the pools of a cache, and whoever has a pool's text can make it without the text before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from io import BytesIO
from pathlib import Path
from zipfile import is_zipfile

import numpy as np

from saepipe.data.cache.layout import Split
from saepipe.data.remote.file_kinds import RANKS, TEXT
from saepipe.data.remote.shared_files import SharedFiles
from saepipe.harvest.pools import Position, SplitSpec
from saepipe.harvest.rows import WindowBatch


@dataclass(frozen=True)
class PoolText:
    """The windows that feed one pool."""

    begin: Position
    """where the pool begins; its number is `begin.pools`"""
    end: int
    """rows of the split up to the pool's end"""
    first_batch: int
    """number of the first of the batches in its split"""
    batches: Sequence[WindowBatch]

    def to_bytes(self) -> bytes:
        """Returns a file of numpy arrays; it holds no pickle."""
        arrays = {
            "begin": np.array(astuple(self.begin)),
            "end": np.array(self.end),
            "first_batch": np.array(self.first_batch),
            "sizes": np.array([len(batch.ids) for batch in self.batches]),
            "firsts": np.array([batch.first for batch in self.batches]),
            "texts": np.array([batch.text for batch in self.batches]),
            "ids": np.concatenate([batch.ids for batch in self.batches]),
            "documents": np.concatenate([batch.documents for batch in self.batches]),
            "stored": np.concatenate([_stored(batch) for batch in self.batches]),
        }
        file = BytesIO()
        np.savez(file, **arrays)  # type: ignore[arg-type]
        return file.getvalue()

    @classmethod
    def of_bytes(cls, content: bytes) -> PoolText:
        with np.load(BytesIO(content), allow_pickle=False) as arrays:
            cuts = np.cumsum(arrays["sizes"])[:-1]
            parts = zip(*(np.split(arrays[name], cuts) for name in ("ids", "documents", "stored")), strict=True)
            batches = [
                WindowBatch(int(first), ids, documents, str(text), stored)
                for first, text, (ids, documents, stored) in zip(arrays["firsts"], arrays["texts"], parts, strict=True)
            ]
            begin = Position(*map(int, arrays["begin"]))
            return cls(begin, int(arrays["end"]), int(arrays["first_batch"]), batches)


def _stored(batch: WindowBatch) -> np.ndarray:
    return np.ones(batch.ids.shape, bool) if batch.stored is None else batch.stored


def pool_texts(
    spec: SplitSpec, batches: Iterable[WindowBatch], num_rows: Callable[[WindowBatch], int]
) -> Iterator[PoolText]:
    """Yields the text of every pool of a split, stored or not, until its limit is reached or the batches end.

    Args:
        spec: the pools of the split.
        batches: all batches of the split; none is read after the limit.
        num_rows: number of rows that a batch gives.
    """
    if not spec.limit:
        return
    position = Position()
    begin, held = replace(position), list[WindowBatch]()
    for number, batch in enumerate(batches):
        size = num_rows(batch)
        position.enter(number, 0)
        while position.used < size and position.rows < spec.limit:
            held += [batch] if not held or held[-1] is not batch else []
            end = min((position.pools + 1) * spec.pool_rows, spec.limit)
            position.advance(min(size - position.used, end - position.rows))
            if position.rows == end:
                yield PoolText(begin, end, number - len(held) + 1, held)
                position.pools += 1
                begin, held = replace(position), []
        if position.rows == spec.limit:
            return
    if held:
        yield PoolText(begin, position.rows, position.batches - len(held), held)


class TextFolder:
    """The folder through which the first rank hands the text of pools to the others; all ranks share it."""

    def __init__(self, cache: Path) -> None:
        self._files = SharedFiles(cache / RANKS / TEXT)

    def pauses(self) -> Iterator[float]:
        """Yields the seconds to wait between looks."""
        return self._files.pauses()

    def put(self, split: Split, text: PoolText) -> None:
        self._files.write(_name(split, text.begin.pools), text.to_bytes())

    def num_waiting(self) -> int:
        """Number of texts that no rank has taken yet."""
        return sum(name.endswith(".npz") for name in self._files.names())

    def end(self, split: Split) -> None:
        """Says that all pools of a split were put."""
        self._files.write(_end(split), b"")

    def take(self, split: Split, pool: int, look: Callable[[], None]) -> PoolText | None:
        """Waits for the text of a pool, and removes it; None if the split has no such pool.

        `look` is called while it waits, and may raise.
        """
        name, pauses = _name(split, pool), self.pauses()
        while (content := self._files.read_whole(name, _is_whole)) is None:
            if self._files.read(_end(split)) is not None and self._files.read(name) is None:
                return None  # the end is written after the last pool
            look()
            time.sleep(next(pauses))
        text = PoolText.of_bytes(content)
        self._files.remove(name)
        return text


def _name(split: Split, pool: int) -> str:
    return f"{split}-{pool:08d}.npz"


def _is_whole(content: bytes) -> bool:
    return is_zipfile(BytesIO(content))  # its index is at the end


def _end(split: Split) -> str:
    return f"{split}-end"
