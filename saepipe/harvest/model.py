"""The language model and its tokenizer, from a hub id or a folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

import torch
import xxhash
from pydantic import Field
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file, extract_commit_hash

from saepipe.data.config.base import Config, fingerprint
from saepipe.data.device import pick_device
from saepipe.data.errors import ConfigError, MachineError
from saepipe.data.toy import MODEL_DIR
from saepipe.harvest.capture import capture
from saepipe.harvest.hooks import HookPoint, decoder_layers
from saepipe.harvest.hub import remote_error

Dtype = Literal["float32", "bfloat16", "float16"]
Attention = Literal["eager", "sdpa", "flex_attention", "flash_attention_2"]


class ModelConfig(Config):
    """The language model, and how to run it."""

    model: str = Field("toy", description="hub id, checkpoint folder, or `toy`, the embedded model")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    dtype: Dtype = "bfloat16"
    device: str = Field("auto", description="`auto` is cuda if available, otherwise cpu")
    attention: Attention = Field("eager", description="any other must agree with eager on the first batch")

    @property
    def path(self) -> str:
        return str(MODEL_DIR) if self.model == "toy" else self.model


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in evaluation mode, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: ModelConfig
    revision: str | None = None
    """The commit on the hub that both were loaded from; None for a folder."""

    @property
    def d_in(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def num_layers(self) -> int:
        return len(decoder_layers(self.model))

    @property
    def bos_id(self) -> int:
        """The id at the start of each window: BOS, or EOS for tokenizers without BOS (GPT-2, Pythia)."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(cast(int, token))
        raise ConfigError(f"the tokenizer of {self.config.model} has neither a BOS nor an EOS token")

    @property
    def special_ids(self) -> frozenset[int]:
        """BOS, EOS, pad and the tokenizer's other special tokens."""
        return frozenset(self.tokenizer.all_special_ids) | {self.bos_id}

    @cached_property
    def identity(self) -> dict[str, str | None]:
        """Id, revision, and digests of weights and tokenizer, by which two models are compared."""
        state = xxhash.xxh3_128()
        for name, tensor in sorted(self.model.state_dict().items()):
            state.update(name.encode())
            state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return {
            "id": self.config.model,
            "revision": self.revision or self.config.revision,
            "class": type(self.model).__name__,
            "weights": state.hexdigest(),
            "tokenizer": tokenizer_fingerprint(self.tokenizer, self.special_ids),
        }


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase, special_ids: Iterable[int]) -> str:
    """Digest of a tokenizer's vocabulary and special ids."""
    return fingerprint({"vocab": tokenizer.get_vocab(), "special": sorted(special_ids)})


def load_model(config: ModelConfig) -> LanguageModel:
    """Loads the model and its tokenizer.

    Raises:
        MachineError: if the device, or a package that the attention needs, is missing.
        RemoteError: if the model cannot be loaded from the hub.
        ConfigError: if a folder holds no model, or the model lacks that attention implementation.
    """
    device = pick_device(config.device)
    try:
        # Resolved only once, so that model and tokenizer come from the same commit even if the branch moves.
        commit = extract_commit_hash(cached_file(config.path, "config.json", revision=config.revision), None)
        revision = commit or config.revision
        tokenizer = AutoTokenizer.from_pretrained(config.path, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(
            config.path,
            revision=revision,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attention,
        )
    except (OSError, ValueError, ImportError) as error:
        problem = f"cannot load {config.model!r}: {str(error).splitlines()[0]}"
        if isinstance(error, ImportError):
            raise MachineError(problem) from error
        if isinstance(error, ValueError) or Path(config.path).is_dir():
            raise ConfigError(problem, hint="give a Hugging Face checkpoint folder, and attention: eager") from error
        raise remote_error("model", config.model, config.revision, error) from error
    model.requires_grad_(False)
    nn.Module.to(model, device)
    return LanguageModel(model.train(False), tokenizer, config, commit)


def check_attention(lm: LanguageModel, ids: torch.Tensor, hooks: list[HookPoint]) -> None:
    """Rejects an attention implementation that ignores the model's soft-capping of attention logits.

    Some attention kernels silently drop Gemma-2's soft-capping, so any implementation other than `eager` is compared
    with it on one batch.

    Args:
        lm: the model.
        ids: (batch, seq) token ids of real text.
        hooks: the hook points to compare.

    Raises:
        ConfigError: if the residual streams differ by more than rounding in the dtype explains.
    """
    capped = getattr(lm.model.config.get_text_config(), "attn_logit_softcapping", None)
    if capped is None or lm.config.attention == "eager":
        return
    configured = capture(lm.model, ids, hooks)
    lm.model.set_attn_implementation("eager")
    eager = capture(lm.model, ids, hooks)
    lm.model.set_attn_implementation(lm.config.attention)
    allowed = 8 * torch.finfo(lm.model.dtype).eps
    for name, x in eager.items():
        error = float((configured[name].float() - x.float()).norm() / x.float().norm())
        if error > allowed:
            raise ConfigError(
                f"attention {lm.config.attention!r} differs from eager at {name} by {error:.1e} "
                f"(allowed {allowed:.1e}): it ignores the soft-capping at {capped}",
                hint="attention: eager",
            )
