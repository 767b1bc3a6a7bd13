"""200 random bit flips over the shard files, for each codec profile: 200 errors that name the shard, 0 silent.

    python bench/corruption.py [--cache CACHE] [--flips 200]

Harvests a small toy cache a profile, or copies the one given. Each flip hits a random bit of a random shard file
(activations, norms, ids, contexts, held-out, moments: all kinds alike); then the cache is opened and read whole, and
the bit is put back. Exit code 1 if an error does not name the file, or there is none. Writes results/corruption.json.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from record import write_result

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import CorruptDataError
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest

PROFILES = ("lossless", "none", "int8")
HOOKS = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
SMALL = {
    "model": {"dtype": "float32", "device": "cpu"},
    "hooks": HOOKS,
    "num_tokens": 6_000,
    "heldout_tokens": 2_000,
    "heldout_share": 0.2,
    "shard_rows": 1024,
    "chunk_rows": 256,
    "pool_shards": 2,
    "batch_size": 16,
}


def main(given: Path | None, flips: int, seed: int) -> int:
    counts = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, folder in caches(given, Path(scratch)):
            counts[name] = flip_many(folder, flips, np.random.default_rng(seed))
            print(f"{name}: {flips} flips, {counts[name]}", flush=True)
            assert not Cache.open(folder).damage(), "every bit was put back"
    write_result("corruption", f"{flips} bit flips over the shard files: all found and named", {"flips": counts})
    return int(any(count["named"] != flips for count in counts.values()))


def caches(given: Path | None, scratch: Path) -> Iterator[tuple[str, Path]]:
    """Caches that may be harmed: a copy of the given one, or a small harvest of each profile."""
    if given:
        yield given.name, shutil.copytree(given, scratch / "cache")
        return
    for profile in PROFILES:
        yield profile, harvest(HarvestConfig.parse({**SMALL, "codec": profile}), scratch / profile).path


def flip_many(folder: Path, flips: int, generator: np.random.Generator) -> dict[str, int]:
    """Counts of `named`, `unnamed` (an error that does not name the file) and `silent`."""
    files = Cache.open(folder).files
    shards = [name for name, entry in files.items() if "chunks" in entry]
    counts = Counter(named=0, unnamed=0, silent=0)
    for _ in range(flips):
        name = shards[generator.integers(len(shards))]
        place, bit = int(generator.integers(files[name]["bytes"])), 1 << int(generator.integers(8))
        with flipped(folder / name, place, bit):
            found = outcome(folder, name)
        counts[found] += 1
        if found != "named":
            print(f"  {found}: bit {bit} of byte {place:,} of {name}")
    return dict(counts)


def outcome(folder: Path, name: str) -> str:
    """What a reader of the whole cache is told while the file `name` is damaged."""
    try:
        read_whole(folder)
    except CorruptDataError as error:
        return "named" if str(folder / name) in str(error) else "unnamed"
    return "silent"


def read_whole(folder: Path) -> None:
    """Every row of every row array, through the readers that training and evaluation use."""
    files = Cache.open(folder).files
    for array in sorted({name.split("/c/")[0] for name, entry in files.items() if "chunks" in entry}):
        rows = MappedRows(folder, array, files)
        rows.read(0, rows.num_rows)


@contextmanager
def flipped(path: Path, place: int, bit: int) -> Iterator[None]:
    """The file with one bit changed, and afterwards as it was."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
    write_byte(path, place, byte ^ bit)
    try:
        yield
    finally:
        write_byte(path, place, byte)


def write_byte(path: Path, place: int, byte: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([byte]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="a finished cache to harm a copy of")
    parser.add_argument("--flips", type=int, default=200, help="a cache")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    sys.exit(main(asked.cache, asked.flips, asked.seed))
