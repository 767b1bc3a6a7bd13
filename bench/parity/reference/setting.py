"""Shared by the reference's scripts: the folder of inputs, the model as a HookedTransformer, and the SAEs.

Runs in the environment of sae-bench 0.6.0, without saepipe.
"""

from __future__ import annotations

import json
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from safetensors.torch import load_file
from torch import nn
from transformer_lens import HookedTransformer
from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gemma_weights
from transformers import AutoModelForCausalLM, AutoTokenizer

MODEL_NAME = "gemma-2-2b"
"""The model that the SAEs name in their metadata; the real model is the tiny one."""


class Setting:
    """The folder that `bench/parity` filled: setting.json, text/, saes/, and the files of the parts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plain: dict[str, Any] = json.loads((folder / "setting.json").read_text())
        self.layer: int = self.plain["layer"]
        self.hook = f"blocks.{self.layer}.hook_resid_post"

    @classmethod
    def from_command_line(cls) -> Setting:
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        return cls(Path(sys.argv[1]))

    @cached_property
    def model(self) -> HookedTransformer:
        return hooked_transformer(self.plain["model"])

    @cached_property
    def saes(self) -> dict[str, Any]:
        """Returns the SAEs by name; SAELens loads those in its own format."""
        folders = sorted(path for path in (self.folder / "saes").iterdir())
        return {folder.name: self._sae(folder) for folder in folders}

    def _sae(self, folder: Path) -> Any:
        if not (folder / "cfg.json").exists():
            return LinearSAE(load_file(folder / "sae_weights.safetensors"), self.hook, self.layer)
        sae = SAE.load_from_disk(str(folder))
        sae.cfg.metadata.model_name = MODEL_NAME
        sae.cfg.metadata.hook_layer = self.layer
        sae.cfg.metadata.prepend_bos = True
        return sae


class LinearSAE(nn.Module):
    """acts = x W_enc + b_enc, x_hat = acts W_dec + b_dec: latents can be below 0, as in no architecture of SAELens."""

    def __init__(self, tensors: dict[str, torch.Tensor], hook: str, layer: int) -> None:
        from sae_bench.custom_saes.custom_sae_config import CustomSAEConfig

        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))
        self.cfg = CustomSAEConfig(MODEL_NAME, self.W_enc.shape[0], self.W_enc.shape[1], layer, hook, dtype="float32")
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.W_enc + self.b_enc

    def decode(self, acts: torch.Tensor) -> torch.Tensor:
        return acts @ self.W_dec + self.b_dec


def hooked_transformer(folder: str) -> HookedTransformer:
    """Loads the Gemma-2 in a folder as a HookedTransformer, in float32; asserts that the logits agree."""
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    c = theirs.config
    cfg = HookedTransformerConfig(
        model_name=MODEL_NAME,
        original_architecture="Gemma2ForCausalLM",
        d_model=c.hidden_size,
        d_head=c.head_dim,
        n_heads=c.num_attention_heads,
        n_key_value_heads=c.num_key_value_heads,
        d_mlp=c.intermediate_size,
        n_layers=c.num_hidden_layers,
        n_ctx=c.max_position_embeddings,
        d_vocab=c.vocab_size,
        eps=c.rms_norm_eps,
        act_fn="gelu_pytorch_tanh",
        normalization_type="RMS",
        final_rms=True,
        gated_mlp=True,
        positional_embedding_type="rotary",
        rotary_dim=c.head_dim,
        rotary_base=10000.0,
        use_attn_scale=True,
        attn_scale=c.query_pre_attn_scalar**0.5,
        use_local_attn=True,
        window_size=c.sliding_window,
        attn_types=["local" if kind == "sliding_attention" else "global" for kind in c.layer_types],
        attn_scores_soft_cap=c.attn_logit_softcapping,
        output_logits_soft_cap=c.final_logit_softcapping,
        use_normalization_before_and_after=True,
        dtype=torch.float32,
        device="cpu",
    )
    model = HookedTransformer(cfg, tokenizer)
    model.load_state_dict(convert_gemma_weights(theirs, cfg), strict=False)
    ids = torch.arange(3, 3 + 2 * c.sliding_window)[None]
    gap = (model(ids, return_type="logits") - theirs(ids).logits).abs().max()
    assert gap < 1e-4, f"the HookedTransformer's logits are {gap} away from the original's"
    return model
