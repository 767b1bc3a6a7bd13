"""A whole cache in memory: decoded once, drawn from for as long as it is wanted."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from saepipe.data.batches.shuffle import Pool
from saepipe.data.batches.staging_memory import Place
from saepipe.data.batches.streamed import ShuffledRows, chunks_of
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import OutOfSpaceError
from saepipe.data.terminal.progress import Progress

MOST_OF_MEMORY = 0.9
"""Of what is free: training needs some too."""

READ_AHEAD = 64
"""Chunks that the kernel is asked for before they are decoded."""


class ResidentRows:
    """All rows of a cache at one hook, in stored order."""

    def __init__(self, rows: MappedRows, place: Place, threads: int, progress: Progress) -> None:
        """Decodes every chunk.

        Raises:
            OutOfSpaceError: if they do not fit, before anything is decoded.
            CorruptDataError: naming the shard, if its bytes are not what was written.
        """
        check_fits(rows, place)
        self._place, self._chunk_rows = place, rows.chunk_rows
        self._memory: torch.Tensor | None = place.empty(rows.num_chunks * rows.chunk_rows, rows.array.row_shape[0])
        place.claim(self._memory)
        progress.start(f"decode {rows.array.name} into {place.name}", rows.num_rows, "rows")
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as workers:
            outs = chunks_of(self._memory, rows.chunk_rows)
            fills = [workers.submit(_fill, rows, place, chunk, out) for chunk, out in enumerate(outs)]
            try:
                _await(fills, rows, progress)
            finally:
                workers.shutdown(cancel_futures=True)
                progress.finish()
        place.settle()

    def close(self) -> None:
        self._memory = None

    def loaded(self, coming: Iterator[Pool]) -> Generator[tuple[Pool, ShuffledRows]]:
        """Each pool with its rows."""
        for pool in coming:
            assert self._memory is not None, "closed"
            index = rows_of(pool, self._chunk_rows)[pool.order()]
            yield pool, ShuffledRows(self._place, self._memory, self._place.index(index))


def check_fits(rows: MappedRows, place: Place) -> None:
    """Raises OutOfSpaceError if `place` could not hold all of `rows`, decoded."""
    wanted = rows.num_chunks * rows.chunk_rows * rows.array.row_shape[0] * 2
    most = MOST_OF_MEMORY * place.free_bytes()
    if wanted > most:
        raise OutOfSpaceError(
            f"{rows.array.name} takes {wanted / 1e9:.3g} GB, and in {place.name} it may take {most / 1e9:.3g} GB "
            f"({MOST_OF_MEMORY:.0%} of what is free)",
            hint="resident: none streams it; the batches are the same",
        )


def rows_of(pool: Pool, chunk_rows: int) -> torch.Tensor:
    """Where the rows of a pool stand in the cache, counted through its chunks; int64 (pool.num_rows,)."""
    starts = torch.tensor(pool.chunks) * chunk_rows
    return (starts[:, None] + torch.arange(chunk_rows)).flatten()[: pool.num_rows]


def _fill(rows: MappedRows, place: Place, chunk: int, out: torch.Tensor) -> None:
    rows.will_need(min(chunk + READ_AHEAD, rows.num_chunks - 1))
    place.fill(rows, chunk, out)


def _await(fills: list[Future[None]], rows: MappedRows, progress: Progress) -> None:
    for chunk, fill in enumerate(fills):
        fill.result()
        progress.advance(rows.rows_in(chunk))
