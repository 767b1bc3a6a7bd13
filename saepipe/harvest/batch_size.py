"""`batch_size: auto`: contexts per forward pass, from tokens that a device handles well and the memory that is free."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from saepipe.data.batches.memory import free_ram
from saepipe.data.batches.side_stream import SideStream
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.model import LanguageModel

MOST_TOKENS: Mapping[str, int] = {"cpu": 4096, "cuda": 32_768}
"""Tokens of a pass from which on larger ones are no faster. On a CPU they are slower: activations leave its caches."""

PASSES = 3
"""Passes whose memory is held at once: two that run, and the rows of one."""


def contexts_that_fit(config: HarvestConfig, lm: LanguageModel) -> int:
    """Returns a power of two, at least 1, so that small differences in free memory seldom matter.

    Half of the memory that is free is used, less two pools of rows where they are in the same memory.
    """
    device = lm.model.device
    free = (
        SideStream(device).free_bytes()
        if device.type == "cuda"
        else free_ram() - pool_bytes(config, lm.widths(config.hook_points))
    )
    tokens = min(MOST_TOKENS.get(device.type, MOST_TOKENS["cpu"]), free / 2 / PASSES / bytes_per_token(config, lm))
    contexts = max(1, int(tokens // config.context_size))
    return 1 << (contexts.bit_length() - 1)


def bytes_per_token(config: HarvestConfig, lm: LanguageModel) -> int:
    """Estimate of what a pass holds at its largest moment, in a decoder layer, per token.

    The residual stream and its norms, in the model's dtype and in float32; three arrays of the MLP; queries, keys and
    values; the scores of `eager`, with their softmax in float32; and at each hook the activations and their rows.
    """
    text = lm.model.config.get_text_config()
    size, d_in, heads = torch.finfo(lm.model.dtype).bits // 8, lm.d_in, int(text.num_attention_heads)
    inner = int(getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * d_in)
    head_dim = int(getattr(text, "head_dim", None) or d_in // heads)
    stream = d_in * (4 * size + 8)
    scores = heads * config.context_size * (2 * size + 8) if lm.config.attention == "eager" else 0
    rows = sum(lm.widths(config.hook_points).values()) * (size + 2 + 2 + 4)
    return stream + max(3 * inner * size, 6 * heads * head_dim * size + scores) + rows


def pool_bytes(config: HarvestConfig, widths: Mapping[str, int]) -> int:
    """Bytes of the pool that is filled and the one that is written: rows and norms by hook, contexts and positions."""
    return 2 * min(config.pool_rows, config.num_tokens) * sum((2 * sum(widths.values()), 4 * len(widths), 8, 4))
