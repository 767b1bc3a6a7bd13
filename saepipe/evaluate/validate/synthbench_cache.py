"""A cache of SynthSAEBench's training tokens, from which `saepipe train` makes the benchmark's SAEs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saepipe.data.batches.shuffle import permutation
from saepipe.data.batches.staging_memory import to_bits
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.layout import Layout
from saepipe.data.cache.writer import CacheWriter, RowPool
from saepipe.data.folders import artifact
from saepipe.data.remote.places import folder_of, writer_lock
from saepipe.data.synthetic import CopulaWorld
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.validate.config import SynthBenchConfig
from saepipe.evaluate.validate.synthbench_rows import SIZES, WORLD, Size
from saepipe.evaluate.validate.synthbench_training import batches, make_world

HOOK = "blocks.0.hook_resid_post"
"""Name of the world's activations, which are of no layer."""
SHARD_ROWS, CHUNK_ROWS = 65_536, 1024


def cache_of_world(config: SynthBenchConfig, folder: Path, *, progress: Progress) -> Cache:
    """Writes the training tokens of the config's size, of seed 0."""
    size = SIZES[config.size]
    return write_world_cache(folder, size, make_world(size, config), progress=progress)


def write_world_cache(folder: Path, size: Size, world: CopulaWorld, *, seed: int = 0, progress: Progress) -> Cache:
    """Writes the tokens on which the benchmark's SAEs of one seed are trained, rounded to bfloat16.

    The tokens have no text, and none are held out: the world's own stream goes on without end.
    """
    folder, layout = folder_of(folder), Layout({HOOK: world.d_in}, 1, SHARD_ROWS, CHUNK_ROWS, "lossless")
    attributes = _attributes(layout, size, seed)
    progress.start("write", size.steps * size.batch_size, "tokens")
    with (
        writer_lock(folder, say=progress.say),
        closing(CacheWriter(folder, layout, {"train": SHARD_ROWS, "heldout": SHARD_ROWS})) as writer,
    ):
        writer.start(attributes)
        for number, x in enumerate(_pools(size, world, seed)):
            writer.put(_pool(x, number))
            progress.advance(len(x))
        writer.finish(attributes)
    progress.finish()
    return Cache.open(folder)


def _attributes(layout: Layout, size: Size, seed: int) -> dict[str, Any]:
    return {
        "format_version": layout.format_version,
        "hooks": [HOOK],
        **layout.describe_widths(),
        "model": {"id": WORLD},
        "dataset": {"source": str(size)},
        "config": {"seed": seed},
        "context_size": layout.context_size,
        "num_heldout_contexts": 0,
        "special_ids": [],
        "bos": "none",
        "versions": dict(artifact.provenance()),
    }


def _pools(size: Size, world: CopulaWorld, seed: int) -> Iterator[Tensor]:
    """Yields tokens (at most SHARD_ROWS, d_in) bfloat16, on the CPU."""
    stream = batches(size, world, seed)
    while part := list(islice(stream, SHARD_ROWS // size.batch_size)):
        yield torch.cat([batch.x for batch in part]).bfloat16().cpu()


def _pool(x: Tensor, number: int) -> RowPool:
    rows = number * SHARD_ROWS + np.arange(len(x))
    arrays = {
        Layout.acts(HOOK): to_bits(x),
        Layout.norm(HOOK): torch.linalg.vector_norm(x.float(), dim=1).numpy(),
        Layout.CONTEXT_ID: rows,
        Layout.POSITION: np.zeros(len(x), dtype=np.int32),
    }
    return RowPool("train", number, arrays, permutation(len(x), 0, number).numpy(), {})
