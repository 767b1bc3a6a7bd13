"""Tokens per second through a random Gemma-2-2b up to the hook: the forward pass alone, and `harvest` with writing.

The forward pass alone is harvest's own `capture`, batch after batch, without copies. With writing means the real
`harvest` (text, tokens, capture, shuffle, lossless shards, fsync) from the first batch until the cache is sealed,
without loading the model and without the held-out part. Both use the attention that harvest uses by default.
"""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_parts import material
from gpu_parts.scale import Scale
from gpu_parts.session import Session
from gpu_parts.timing import Stopwatch, median_seconds, release

from saepipe.harvest.capture import capture
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.describe import first_batch
from saepipe.harvest.model import load_model
from saepipe.harvest.run import harvest


def measure(session: Session) -> dict[str, Any]:
    """Returns by context size tokens/s of the forward pass alone, tokens/s with writing, and their ratio."""
    scale, folder = session.scale, session.folder
    began = time.perf_counter()
    model = material.gemma(folder / "gemma", scale)
    release()
    print(f"  made and saved a random Gemma-2 in {time.perf_counter() - began:.0f} s", flush=True)
    by_context: dict[str, Any] = {}
    for context_size, contexts in scale.contexts:
        release()  # frees the model of the last measurement
        began = time.perf_counter()
        config = harvest_config(scale, model, context_size, contexts)
        by_context[f"context {context_size}"] = line = one_context(scale, config, folder / f"harvest-{context_size}")
        print(
            f"  context {context_size}: {line['forward_tokens_s']:,.0f} tokens/s, with writing "
            f"{line['harvest_tokens_s']:,.0f}, ratio {line['ratio']:.2f}",
            flush=True,
        )
        session.keep(by_context)
        if session.budget.left < time.perf_counter() - began:
            break
    return by_context


def harvest_config(scale: Scale, model: Path, context_size: int, contexts: int) -> HarvestConfig:
    return HarvestConfig.parse(
        {
            "model": {"model": str(model), "device": str(scale.device)},
            "hooks": [scale.hook],
            "num_tokens": scale.harvest_tokens,
            "heldout_tokens": 0,
            "heldout_share": 0.0,
            "context_size": context_size,
            "batch_size": contexts,
            "shard_rows": scale.shard_rows,
            "chunk_rows": scale.chunk_rows,
            "encoders": material.encoders(),
        }
    )


def one_context(scale: Scale, config: HarvestConfig, out: Path) -> dict[str, Any]:
    forward = forward_tokens_s(scale, config)
    watch = Stopwatch()
    began = time.perf_counter()
    cache = harvest(config, out, progress=watch)
    ended = time.perf_counter()
    whole, seconds = ended - began, ended - watch.began["harvest train"]
    stored = sum(file.stat().st_size for file in (out / "acts").rglob("*") if file.is_file())
    # Both rates count the special tokens, which the cache does not keep, because the forward pass sees them too.
    writing = cache.attributes["num_contexts"] * config.context_size / seconds
    figures = {
        "forward_tokens_s": forward,
        "harvest_tokens_s": writing,
        "ratio": writing / forward,
        "harvest_seconds": seconds,
        "whole_call_seconds": whole,
        "tokens_stored": cache.num_tokens,
        "contexts_a_forward_pass": config.batch_size,
        "attention": config.model.attention,
        "compression_ratio": 2 * scale.d_in * cache.num_tokens / stored,
        "written_gb_s": stored / seconds / 1e9,
    }
    shutil.rmtree(out)
    return figures


def forward_tokens_s(scale: Scale, config: HarvestConfig) -> float:
    """Returns tokens/s, including special tokens, through `capture` alone."""
    lm = load_model(config.model)
    ids = torch.from_numpy(first_batch(config, lm).ids).long()
    run = partial(capture, lm.model, ids, config.hook_points)
    return ids.numel() / median_seconds(run, scale.device, scale.rounds, scale.turn_seconds)
