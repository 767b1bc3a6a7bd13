"""Inputs of the measurements: random activations on the device, caches of them, and a random Gemma-2 in a folder."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from gpu_parts.scale import Scale
from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM

from saepipe.data import toy
from saepipe.data.batches.shuffle import permutation
from saepipe.data.cache.cache import FORMAT_VERSION, Cache
from saepipe.data.cache.layout import Layout
from saepipe.data.cache.writer import CacheWriter, RowPool
from saepipe.data.folders import artifact

MEAN_ACTIVE = 32
NOISE = 0.1
MEAN_NORM = 308.0  # Gemma-2-2b after layer 19


class Rows:
    """Random rows: sparse sums of 2 * d_in unit directions whose frequencies fall as 1 / rank, with noise, an offset
    and a few heavy channels. Their spectrum falls like that of a residual stream."""

    def __init__(self, d_in: int, device: torch.device, seed: int = 0) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)
        self._device = device
        directions = self._normal(2 * d_in, d_in)
        self._directions = torch.nn.functional.normalize(directions, dim=1).bfloat16()
        rate = 1 / (1 + torch.arange(2 * d_in, device=device))
        self._rate = (rate * min(MEAN_ACTIVE, d_in / 4) / rate.sum()).clamp(max=0.5)
        self._offset = self._normal(d_in)
        self._scale = torch.ones(d_in, device=device)
        self._scale[: max(1, d_in // 500)] = 8.0
        self._scale *= MEAN_NORM / torch.linalg.vector_norm(self.sample(1024).float(), dim=1).mean()

    def sample(self, num_rows: int) -> torch.Tensor:
        """Samples (num_rows, d_in) bfloat16 on the device, different rows at each call."""
        shape = (num_rows, len(self._directions))
        size = torch.rand(shape, generator=self._generator, device=self._device)
        on = torch.rand(shape, generator=self._generator, device=self._device) < self._rate
        signal = (4 * size * on).bfloat16() @ self._directions
        noise = NOISE * self._normal(num_rows, self._directions.shape[1])
        return ((signal + noise + self._offset) * self._scale).bfloat16()

    def _normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator, device=self._device)


def shared_cache(folder: Path, scale: Scale) -> Cache:
    """Returns the cache that loaders and steps read; the first call writes it."""
    path = folder / "cache"
    return Cache.open(path) if artifact.is_committed(path) else write_cache(path, scale, scale.cache_rows)


def write_cache(folder: Path, scale: Scale, num_rows: int) -> Cache:
    """Writes a finished lossless cache of random training rows at `scale.hook`, without a held-out part."""
    layout = Layout({scale.hook: scale.d_in}, 128, scale.shard_rows, scale.chunk_rows, "lossless")
    attributes = {"format_version": FORMAT_VERSION, "hooks": [scale.hook], "d_in": scale.d_in}
    attributes |= {"num_heldout_contexts": 0, "model": {"id": "made up"}, "context_size": 128, "config": {}}
    attributes |= {"special_ids": [0], "bos_id": 0}
    rows, pool_rows = Rows(scale.d_in, scale.device), 4 * scale.shard_rows
    writing = CacheWriter(folder, layout, {"train": pool_rows, "heldout": scale.shard_rows}, threads=encoders())
    with artifact.writer_lock(folder), closing(writing) as writer:
        writer.start(attributes)
        for number, start in enumerate(range(0, num_rows, pool_rows)):
            writer.put(_pool(number, start, min(pool_rows, num_rows - start), rows, scale))
        writer.finish(attributes)
    return Cache.open(folder)


def _pool(number: int, start: int, count: int, rows: Rows, scale: Scale) -> RowPool:
    parts = (rows.sample(min(scale.shard_rows, count - first)).cpu() for first in range(0, count, scale.shard_rows))
    x = torch.cat(list(parts))
    row_ids = np.arange(start, start + count)
    arrays = {
        f"acts/{scale.hook}": x.view(torch.int16).numpy().view(np.uint16),
        f"norm/{scale.hook}": torch.linalg.vector_norm(x, dim=1, dtype=torch.float32).numpy(),
        "context_id": row_ids // 127,
        "position": (row_ids % 127 + 1).astype(np.int32),
    }
    facts = {"batches": number, "used": 0, "dropped": 0}
    return RowPool("train", number, arrays, permutation(count, 0, number).numpy(), facts)


def encoders() -> int:
    """Returns the number of compressing threads: most of the cores, so that disk or device is the bottleneck."""
    return max(2, 3 * len(os.sched_getaffinity(0)) // 4)


def gemma(folder: Path, scale: Scale) -> Path:
    """Writes a checkpoint folder of Gemma-2-2b's shape (`Gemma2Config()`) with random weights and the toy's tokenizer.

    The tokenizer's special tokens have Gemma's ids; its 4,096 tokens are the first of the model's 256,000.
    """
    config = Gemma2Config()
    if scale.tiny:
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "query_pre_attn_scalar": 16}
        config = Gemma2Config(
            vocab_size=4096, hidden_size=scale.d_in, intermediate_size=64, num_hidden_layers=3, **heads
        )
    torch.manual_seed(0)
    with scale.device:
        model = Gemma2ForCausalLM(config).bfloat16()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(toy.MODEL_DIR).save_pretrained(folder)
    return folder
