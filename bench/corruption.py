"""200 random bit flips over the shard files, for each codec profile: 200 errors name the shard, 0 are silent.

    python bench/corruption.py [--cache CACHE] [--flips 200]

Harvests a small toy cache per profile, or copies the given one. Each flip hits a random bit of a random shard file
(activations, norms, ids, contexts, held-out, moments: all kinds are equally likely); then the whole cache is read, and
the bit is restored. Exit code 1 if an error does not name the file or is missing. Writes results/corruption.json.
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


def main(cache: Path | None, flips: int, seed: int) -> int:
    counts = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, folder in caches(cache, Path(scratch)):
            counts[name] = flip_many(folder, flips, np.random.default_rng(seed))
            print(f"{name}: {flips} flips, {counts[name]}", flush=True)
            assert not Cache.open(folder).damage(), "every bit was restored"
    write_result("corruption", f"{flips} bit flips over the shard files: all reported, by file", {"flips": counts})
    return int(any(count["named"] != flips for count in counts.values()))


def caches(cache: Path | None, scratch: Path) -> Iterator[tuple[str, Path]]:
    """Yields caches that may be damaged: a copy of the given one, or a small harvest of each profile."""
    if cache:
        yield cache.name, shutil.copytree(cache, scratch / "cache")
        return
    for profile in PROFILES:
        yield profile, harvest(HarvestConfig.parse({**SMALL, "codec": profile}), scratch / profile).path


def flip_many(folder: Path, flips: int, generator: np.random.Generator) -> dict[str, int]:
    """Returns the counts of `named`, `unnamed` (an error that does not name the file) and `silent`."""
    files = Cache.open(folder).files
    shards = [name for name, entry in files.items() if "chunks" in entry]
    counts = Counter(named=0, unnamed=0, silent=0)
    for _ in range(flips):
        name = shards[generator.integers(len(shards))]
        offset, bit = int(generator.integers(files[name]["bytes"])), 1 << int(generator.integers(8))
        with flipped(folder / name, offset, bit):
            result = outcome(folder, name)
        counts[result] += 1
        if result != "named":
            print(f"  {result}: bit {bit} of byte {offset:,} of {name}")
    return dict(counts)


def outcome(folder: Path, name: str) -> str:
    """Reads the whole cache while the file `name` is damaged; returns how the damage is reported."""
    try:
        read_whole(folder)
    except CorruptDataError as error:
        return "named" if str(folder / name) in str(error) else "unnamed"
    return "silent"


def read_whole(folder: Path) -> None:
    """Reads every row of every row array, through the readers that training and evaluation use."""
    files = Cache.open(folder).files
    for array in sorted({name.split("/c/")[0] for name, entry in files.items() if "chunks" in entry}):
        rows = MappedRows(folder, array, files)
        rows.read(0, rows.num_rows)


@contextmanager
def flipped(path: Path, offset: int, bit: int) -> Iterator[None]:
    """Flips one bit of the byte at `offset`, and restores it at the end."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
    write_byte(path, offset, byte ^ bit)
    try:
        yield
    finally:
        write_byte(path, offset, byte)


def write_byte(path: Path, offset: int, byte: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes([byte]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="finished cache, of which a copy is damaged")
    parser.add_argument("--flips", type=int, default=200, help="flips per cache")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.exit(main(args.cache, args.flips, args.seed))
