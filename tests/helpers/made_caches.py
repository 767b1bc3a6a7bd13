"""Synthetic rows and caches, for tests that need no language model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from saepipe.data.batches.shuffle import permutation
from saepipe.data.cache.codecs import SNR_FLOOR, Profile
from saepipe.data.cache.layout import Layout
from saepipe.data.cache.writer import CacheWriter, RowPool
from saepipe.data.remote.places import folder_of, writer_lock


def structured_rows(num_rows: int, d_in: int, seed: int = 0) -> torch.Tensor:
    """Samples sparse sums of 2 * d_in unit directions, with noise and an offset; (num_rows, d_in) bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(2 * d_in, d_in, generator=generator), dim=1)
    on = torch.rand(num_rows, 2 * d_in, generator=generator) < 3 / (2 * d_in)
    codes = torch.rand(num_rows, 2 * d_in, generator=generator) * on * 4
    offset = torch.randn(d_in, generator=generator)
    return (codes @ directions + 0.05 * torch.randn(num_rows, d_in, generator=generator) + offset).bfloat16()


def write_cache(
    folder: Path | str,
    rows: Mapping[str, torch.Tensor],
    *,
    profile: Profile = "lossless",
    shard_rows: int = 2048,
    chunk_rows: int = 256,
    pool_shards: int = 2,
    snr_floor: float = SNR_FLOOR,
) -> Path:
    """Writes a finished cache of training rows, (num_rows, d_in) bfloat16 by hook, without a held-out part."""
    folder, num_rows = folder_of(folder), len(next(iter(rows.values())))
    layout = Layout({hook: x.shape[1] for hook, x in rows.items()}, 16, shard_rows, chunk_rows, profile)
    pool_rows = pool_shards * shard_rows
    attributes = {"format_version": layout.format_version, "hooks": list(rows), **layout.describe_widths()}
    attributes |= {"model": {"id": "made up"}, "context_size": 16, "config": {}, "special_ids": [0], "bos_id": 0}
    attributes |= {"num_heldout_contexts": 0}
    with (
        writer_lock(folder),
        closing(
            CacheWriter(folder, layout, {"train": pool_rows, "heldout": shard_rows}, snr_floor=snr_floor)
        ) as writer,
    ):
        writer.start(attributes)
        for number, start in enumerate(range(0, num_rows, pool_rows)):
            part = {hook: x[start : start + pool_rows] for hook, x in rows.items()}
            count = len(next(iter(part.values())))
            arrays = {Layout.acts(hook): x.view(torch.int16).numpy().view(np.uint16) for hook, x in part.items()}
            arrays |= {Layout.norm(hook): x.float().norm(dim=1).numpy() for hook, x in part.items()}
            arrays[Layout.CONTEXT_ID] = (np.arange(count) + start) // 15
            arrays[Layout.POSITION] = ((np.arange(count) + start) % 15 + 1).astype(np.int32)
            order = permutation(count, 0, number).numpy()
            writer.put(RowPool("train", number, arrays, order, {"batches": number, "used": 0, "dropped": 0}))
        writer.finish(attributes)
    return folder
