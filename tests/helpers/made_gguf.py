"""A tiny Llama in a GGUF file, with a byte-level tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

WIDTH, MLP, LAYERS, HEADS = 32, 64, 2, 4
SPECIALS = ("<bos>", "<eos>")


def write_gguf(path: Path, seed: int = 0) -> Path:
    """Writes random weights of `seed`; needs the package gguf."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    tokens = [*SPECIALS, *sorted(ByteLevel.alphabet()), "th"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, shape in _shapes(len(tokens)).items():
        writer.add_tensor(name, _values(name, shape, seed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes(num_tokens: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (num_tokens, WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{layer}.{name}.weight"] = (WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            shapes[f"blk.{layer}.{name}.weight"] = (MLP, WIDTH)
        shapes[f"blk.{layer}.ffn_down.weight"] = (WIDTH, MLP)
        for name in ("attn_norm", "ffn_norm"):
            shapes[f"blk.{layer}.{name}.weight"] = (WIDTH,)
    return shapes


def _values(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.default_rng([seed, *name.encode()])
    return (generator.standard_normal(shape) / np.sqrt(WIDTH) + ("norm" in name)).astype(np.float32)
