"""The loader serves a lossless cache as shuffled batches in RAM at >= 1.5 decoded GB per CPU-second.

    python bench/loader.py [--rows 262144] [--rounds 7] [--quick] [--folder SCRATCH]

Activations are those of bench/cache.py, and readers take turns here too. 1 GB is 1e9 bytes of decoded bfloat16, from
the page cache; CPU-seconds are summed over all threads and include decoding, permuting and gathering. In a first epoch
every chunk is mapped and its crc32c checked, in later ones not. Streams are measured once their buffers exist; resident
memory is allocated each time, and its page faults count (on a virtual machine they may cost more than the decoding).
Two bounds of the loader are measured too: decoding alone, in order, into reused buffers, and copying as many bytes in
order. Writes results/loader.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from cache import BATCH, D_IN, HOOK, RING_CHUNKS, Timing, in_order, proxy, settle, timed, write_cache
from record import write_result

from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.cache import Cache

CLAIM = __doc__.split("\n\n")[0].replace("\n", " ")
AIM = 1.5
NUM_POOLS = 8
"""Pools per epoch when the first epoch is measured."""

FIRST, LATER = "lossless, streamed: first epoch, checked", "lossless, streamed: later epochs"
DECODE, RAM = "lossless into new resident RAM, once, checked", "resident RAM: batches"
NONE = "none, streamed: later epochs"
DECODE_ALONE, COPY_ALONE = "bound: decoding alone", "bound: copying alone"


def main(num_rows: int, rounds: int, folder: Path) -> None:
    x = proxy(num_rows)
    bits = x.view(torch.int16).numpy().view(np.uint16)
    caches = {profile: Cache.open(write_cache(folder / profile, bits, profile)) for profile in ("lossless", "none")}
    del x, bits
    torch.set_num_threads(1)  # a second thread would spin while the first gathers
    with ExitStack() as stack:
        timings = measure(readers(caches["lossless"], caches["none"], stack), rounds)
    report(num_rows, timings)


def measure(readers: dict[str, Callable[[], Timing]], rounds: int) -> dict[str, list[Timing]]:
    """Times each reader once per round, after one round that does not count."""
    timings: dict[str, list[Timing]] = {name: [] for name in readers}
    for _ in range(rounds + 1):
        for name, read in readers.items():
            settle()
            timings[name].append(read())
    return {name: lines[1:] for name, lines in timings.items()}


def readers(lossless: Cache, none: Cache, stack: ExitStack) -> dict[str, Callable[[], Timing]]:
    """Returns the readers that are compared, by name."""

    def stream(cache: Cache, **settings: str) -> Iterator[torch.Tensor]:
        batches = stack.enter_context(BatchStream(cache, HOOK, BATCH, 0, **settings)).batches()
        next(batches)
        return batches

    rows = lossless.rows(HOOK)
    num_batches, ring = rows.num_rows // BATCH, np.zeros((RING_CHUNKS, rows.chunk_rows, D_IN), np.uint16)
    later, resident, uncompressed = stream(lossless), stream(lossless, resident="ram"), stream(none)
    return {
        FIRST: lambda: first_touch(lossless),
        LATER: lambda: timed(lambda: epoch(later, num_batches)),
        DECODE: lambda: timed(lambda: decode_once(lossless)),
        RAM: lambda: timed(lambda: epoch(resident, num_batches)),
        NONE: lambda: timed(lambda: epoch(uncompressed, num_batches)),
        DECODE_ALONE: lambda: timed(lambda: in_order(rows, ring)),
        COPY_ALONE: lambda: timed(lambda: copies(ring, rows.num_chunks)),
    }


def epoch(batches: Iterator[torch.Tensor], num_batches: int) -> int:
    """Reads an epoch and returns its bytes. It waits for the pool that is decoded ahead, so each epoch pays for one."""
    num_bytes = sum(batch.nbytes for batch in islice(batches, num_batches))
    settle()
    return num_bytes


def first_touch(cache: Cache) -> Timing:
    """Times a new stream: its first pools are served while the others, all but two, are decoded."""
    with BatchStream(cache, HOOK, BATCH, 0, pool_chunks=cache.rows(HOOK).num_chunks // NUM_POOLS) as stream:
        batches = stream.batches()
        next(batches)
        settle()
        return timed(lambda: epoch(batches, stream.num_rows // BATCH * (NUM_POOLS - 2) // NUM_POOLS))


def decode_once(cache: Cache) -> int:
    with BatchStream(cache, HOOK, BATCH, 0, resident="ram") as stream:
        return stream.num_rows * D_IN * 2


def copies(ring: np.ndarray, num_chunks: int) -> int:
    """Copies as many chunks as the cache has from one half of the ring into the other; returns the bytes."""
    half = len(ring) // 2
    for chunk in range(num_chunks):
        np.copyto(ring[half + chunk % half], ring[chunk % half])
    return num_chunks * ring[0].nbytes


def report(num_rows: int, timings: dict[str, list[Timing]]) -> None:
    """Prints the table and the aims, and writes results/loader.json."""
    per_cpu = {name: [t.num_bytes / 1e9 / t.cpu_seconds for t in lines] for name, lines in timings.items()}
    per_wall = {name: [t.num_bytes / 1e9 / t.wall_seconds for t in lines] for name, lines in timings.items()}
    speed = {name: statistics.median(values) for name, values in per_cpu.items()}
    print(f"{'':44}GB/CPU-s   (range)        GB/s wall")
    for name, values in per_cpu.items():
        spread = f"({min(values):.2f} - {max(values):.2f})"
        print(f"{name:44}{speed[name]:8.2f}   {spread:16}{statistics.median(per_wall[name]):8.2f}")
    aims = {name: {"found": speed[name], "aim": AIM} for name in (FIRST, LATER)}
    for name, line in aims.items():
        print(f"{name:44}{line['found']:8.2f}   aim {AIM}: {'met' if line['found'] >= AIM else 'MISSED'}")
    figures = {
        "aims": aims,
        "GB_per_cpu_second": speed,
        "GB_per_second": {name: statistics.median(values) for name, values in per_wall.items()},
        "rounds": {"GB_per_cpu_second": per_cpu, "GB_per_second": per_wall},
        "settings": {"shape": [num_rows, D_IN], "batch": BATCH},
    }
    print(f"written to {write_result('loader', CLAIM, figures)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=262_144)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="65,536 rows, 3 rounds")
    parser.add_argument("--folder", type=Path, help="parent folder of the temporary caches (2 GB)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        main(*((65_536, 3) if args.quick else (args.rows, args.rounds)), Path(scratch))
