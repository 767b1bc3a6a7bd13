"""Small random models of the families whose sites saepipe knows, each made from transformers' own config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

LAYERS, WIDTH, HEADS, VOCAB = 3, 16, 4, 96
IDS = torch.randint(8, VOCAB, (2, 12), generator=torch.Generator().manual_seed(0))

LLAMA: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 2}
GPT_2 = {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 64}
NEOX = {key: value for key, value in LLAMA.items() if key not in ("num_key_value_heads", "head_dim")}
GEMMA_4 = {"global_head_dim": 16, "num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"] * 2}
PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB}
NEXT = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "shared_expert_intermediate_size": 16,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}

FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", LLAMA),
    "mistral": ("Mistral", LLAMA),
    "gemma": ("Gemma", LLAMA),
    "qwen2": ("Qwen2", LLAMA),
    "qwen3": ("Qwen3", LLAMA),
    "smollm3": ("SmolLM3", LLAMA),
    "starcoder2": ("Starcoder2", LLAMA),
    "phi3": ("Phi3", LLAMA),
    "qwen3_moe": ("Qwen3Moe", {**LLAMA, **MOE}),
    "mixtral": ("Mixtral", {**LLAMA, "num_local_experts": 4}),
    "gpt_oss": ("GptOss", {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_next": ("Qwen3Next", {**LLAMA, **MOE, **NEXT}),
    "gemma2": ("Gemma2", LLAMA),
    "gemma3_text": ("Gemma3", LLAMA),
    "gemma4_text": ("Gemma4", {**LLAMA, **GEMMA_4, "hidden_size_per_layer_input": 0}),
    "gemma4_text, per-layer input": ("Gemma4", {**LLAMA, **GEMMA_4, **PER_LAYER}),
    "gemma4_text, shared keys and values": (
        "Gemma4",
        {**LLAMA, **GEMMA_4, **PER_LAYER, "num_kv_shared_layers": 1, "num_hidden_layers": 4},
    ),
    "olmo2": ("Olmo2", LLAMA),
    "granite": ("Granite", {**LLAMA, "residual_multiplier": 0.22}),
    "cohere": ("Cohere", LLAMA),
    "cohere2": ("Cohere2", LLAMA),
    "stablelm": ("StableLm", LLAMA),
    "stablelm, parallel": ("StableLm", {**LLAMA, "use_parallel_residual": True}),
    "gpt2": ("GPT2", GPT_2),
    "gpt_neo": (
        "GPTNeo",
        {**NEOX, "num_layers": LAYERS, "num_heads": HEADS, "attention_types": [[["global", "local", "global"], 1]]},
    ),
    "gptj": ("GPTJ", {**GPT_2, "rotary_dim": 4}),
    "gpt_neox": ("GPTNeoX", NEOX),
    "gpt_neox, sequential": ("GPTNeoX", {**NEOX, "use_parallel_residual": False}),
    "falcon": ("Falcon", {**NEOX, "new_decoder_architecture": False, "multi_query": True, "parallel_attn": True}),
    "falcon, new": ("Falcon", {**NEOX, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon, sequential": (
        "Falcon",
        {**NEOX, "new_decoder_architecture": False, "parallel_attn": False, "alibi": True},
    ),
    "bloom": ("Bloom", {"vocab_size": VOCAB, "hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS}),
    "bloom, residual after norm": (
        "Bloom",
        {
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "apply_residual_connection_post_layernorm": True,
        },
    ),
    "mpt": ("Mpt", {"vocab_size": VOCAB, "d_model": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "max_seq_len": 64}),
    "opt": ("OPT", {**NEOX, "ffn_dim": 32, "word_embed_proj_dim": 8}),
    "opt, norms after": ("OPT", {**NEOX, "ffn_dim": 32, "word_embed_proj_dim": WIDTH, "do_layer_norm_before": False}),
    "mamba": ("Mamba", {"vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "state_size": 4}),
}
"""Beginning of the class's name, and settings, by `model_type` and variety."""

CAUSAL: Mapping[str, str] = {"GPT2": "GPT2LMHeadModel", "GPTNeoX": "GPTNeoXForCausalLM"}
CONFIGS: Mapping[str, str] = {"Gemma3": "Gemma3TextConfig", "Gemma4": "Gemma4TextConfig"}


@cache
def model_of(family: str) -> PreTrainedModel:
    """Returns the model with all weights random, norms and scalars included, so that a forgotten factor shows."""
    name, settings = FAMILIES[family]
    make: Callable[..., Any] = getattr(transformers, CONFIGS.get(name, f"{name}Config"))
    if name == "Gemma4":
        settings = {**settings, "layer_types": settings["layer_types"][: settings["num_hidden_layers"]]}
    config = make(**settings, attn_implementation="eager")
    model: PreTrainedModel = getattr(transformers, CAUSAL.get(name, f"{name}ForCausalLM"))(config)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=rng))
        for module_name, buffer in model.named_buffers():
            if module_name.endswith("layer_scalar"):
                buffer.fill_(0.7)
    return model.eval()
