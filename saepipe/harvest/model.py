"""The language model and its tokenizer, from a hub id or a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from torch import nn

from saepipe.data.config.base import fingerprint
from saepipe.data.device import pick_device
from saepipe.data.errors import (
    ConfigError,
    CorruptDataError,
    MachineError,
    OutOfSpaceError,
    SaepipeError,
    is_out_of_memory,
)
from saepipe.harvest.decoder_layers import decoder_layers
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.hub import remote_error
from saepipe.harvest.hub_client import is_from_the_network
from saepipe.harvest.identity import describe_config, describe_tokenizer, probe_ids
from saepipe.harvest.large_models import check_placed, loading_options
from saepipe.harvest.model_config import ModelConfig
from saepipe.harvest.model_digests import code_digest, weights_digest
from saepipe.harvest.sites import width_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_FOLDER_HINT = "give a Hugging Face checkpoint folder, and attention: eager"


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model in evaluation mode, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: ModelConfig
    revision: str | None = None
    """The commit on the hub that both were loaded from; None for a folder."""
    stored_special_ids: frozenset[int] | None = None
    """`special_ids` of the cache that the model is used with; an earlier version may have had fewer."""
    chosen_bos_id: int | None = None
    """The id that a config, or the cache, uses as BOS; None: the tokenizer's own."""
    loaded_weights: str | None = None
    """Digest of quantised weights as they were loaded; a CPU's first pass arranges those of 4 bits anew."""

    @property
    def d_in(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.get_text_config().hidden_size)

    def widths(self, hooks: Sequence[HookPoint]) -> dict[str, int]:
        """Returns d_in by hook; raises ConfigError if the model does not have one of them."""
        return {str(hook): width_of(self.model, hook) for hook in hooks}

    @property
    def runs_in_threads(self) -> bool:
        """True if two threads may run the model at once: not where a pass moves weights, or keeps a state in them."""
        return self.config.device_map is None and self.config.quantization is None

    @property
    def num_layers(self) -> int:
        return len(decoder_layers(self.model))

    @property
    def num_ids(self) -> int:
        """Number of token ids that the model can embed."""
        return len(cast(torch.Tensor, self.model.get_input_embeddings().weight))

    @property
    def bos_id(self) -> int:
        """The id before a text: the chosen one, or BOS, or EOS for tokenizers without BOS (GPT-2, Pythia)."""
        bos_id = own_bos_id(self.tokenizer) if self.chosen_bos_id is None else self.chosen_bos_id
        if bos_id is None:
            raise ConfigError(
                f"the tokenizer of {self.config.model} has neither a BOS nor an EOS token",
                hint="harvest with bos_token: TOKEN, or with bos: none",
            )
        return bos_id

    @property
    def special_ids(self) -> frozenset[int]:
        """BOS, and every token that the tokenizer flags as special, such as the marks of a chat template.

        `all_special_ids` has only those with a role (BOS, EOS, padding): none of Llama 3's header tokens.
        """
        if self.stored_special_ids is not None:
            return self.stored_special_ids
        added = self.tokenizer.added_tokens_decoder.items()
        flagged = {token_id for token_id, token in added if token.special}
        bos_ids = {own_bos_id(self.tokenizer), self.chosen_bos_id} - {None}
        return frozenset(self.tokenizer.all_special_ids) | flagged | cast("set[int]", bos_ids)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Id, revision, class, config, and digests of weights and tokenizer, by which two models are compared.

        The BOS, if it is not the tokenizer's own; a digest of the code that came with the model, if it was run.
        """
        code = code_digest(self.model, self.tokenizer)
        return {
            "id": self.config.model,
            "revision": self.revision or self.config.revision,
            "class": type(self.model).__name__,
            "weights": self.loaded_weights or weights_digest(self.model),
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            "config": describe_config(self.model.config),
            **describe_tokenizer(self.tokenizer),
            **({} if self.chosen_bos_id in (None, own_bos_id(self.tokenizer)) else {"bos_id": self.chosen_bos_id}),
            **({"code": code} if code else {}),
        }


def own_bos_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Returns the id of a tokenizer's BOS, or of its EOS; None if it has neither."""
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return next((int(cast(int, token)) for token in ids if token is not None), None)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns a digest of a tokenizer's vocabulary and the ids of its special tokens that have a role."""
    special = {*tokenizer.all_special_ids, own_bos_id(tokenizer)} - {None}
    return fingerprint({"vocab": tokenizer.get_vocab(), "special": sorted(special)})


def load_model(config: ModelConfig) -> LanguageModel:
    """Loads the model and its tokenizer.

    Raises:
        MachineError: if the device is missing, or a package that the attention, the device map or the quantisation
            needs.
        RemoteError: if the model cannot be loaded from the hub.
        ConfigError: if a folder holds no model, the model lacks that attention implementation, the checkpoint does not
            have exactly the model's weights, the tokenizer makes no ordinary tokens, or the model needs code of its
            own and is not trusted.
        CorruptDataError: if a file of weights is damaged.
        OutOfSpaceError: if the model does not fit in memory.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.hub import cached_file, extract_commit_hash

    device = pick_device(config.device)
    placement = loading_options(config, device)
    try:
        # Resolved only once, so that model and tokenizer come from the same commit even if the branch moves.
        described = cached_file(config.path, config.gguf_file or "config.json", revision=config.revision)
        commit = extract_commit_hash(described, None)
        revision = commit or config.revision
        tokenizer = load_tokenizer(config, revision)
        pair: Any = AutoModelForCausalLM.from_pretrained(
            config.path,
            revision=revision,
            dtype=getattr(torch, config.dtype),
            attn_implementation="eager" if config.attention == "auto" else config.attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are listed; none is accepted
            trust_remote_code=config.trust_remote_code,  # None would ask on the terminal
            **_gguf_options(config),
            **placement,
        )
    except Exception as error:  # a damaged or foreign file raises whatever the reading library does not expect
        raise loading_error(config, error) from error
    model, loaded = cast("tuple[PreTrainedModel, dict[str, Any]]", pair)
    _check_weights(config, loaded)
    if set(probe_ids(tokenizer, special=False)) <= set(tokenizer.all_special_ids):
        raise ConfigError(
            f"the tokenizer of {config.model!r} makes no ordinary token of any text: are its files missing?",
            hint="a checkpoint folder needs tokenizer.json, or the files that its tokenizer is made from",
        )
    model.requires_grad_(False)
    check_placed(config, model.device)
    try:
        if not placement:
            nn.Module.to(model, device)
    except torch.OutOfMemoryError as error:
        raise loading_error(config, error) from error
    weights = weights_digest(model) if config.quantization else None
    return LanguageModel(model.train(False), tokenizer, config, commit, loaded_weights=weights)


def load_tokenizer(config: ModelConfig, revision: str | None) -> PreTrainedTokenizerBase:
    """Loads a model's tokenizer from its folder or hub repository, or from its GGUF file."""
    from transformers import AutoTokenizer

    options: dict[str, Any] = {"gguf_file": config.gguf_file} if config.gguf_file else {}
    options |= {"revision": revision, "trust_remote_code": config.trust_remote_code}
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(config.path, **options)
    return tokenizer


def _gguf_options(config: ModelConfig) -> dict[str, Any]:
    """Returns the arguments that load a GGUF file as dense weights: packed ones depend on kernels of the machine."""
    if config.gguf_file is None:
        return {}
    from transformers import GgufConfig

    return {"gguf_file": config.gguf_file, "quantization_config": GgufConfig(dequantize=True)}


def loading_error(config: ModelConfig, error: Exception) -> SaepipeError:
    """Explains why a model could not be loaded."""
    reason = " ".join(str(error).split())[:300]
    problem = f"cannot load {config.model!r}: {reason}"
    if not config.trust_remote_code and "trust_remote_code=True" in str(error):
        hint = "read its code, then set trust_remote_code: true (of a harvest: model.trust_remote_code)"
        return ConfigError(f"{config.model!r} needs code of its own, which is not run unasked", hint=hint)
    if is_out_of_memory(error):
        hint = "model.dtype: bfloat16, a smaller model, or more memory"
        return OutOfSpaceError(f"{config.model!r} does not fit in memory as {config.dtype}: {reason}", hint=hint)
    if isinstance(error, ImportError):
        return MachineError(problem, hint="pip install 'saepipe[real]'" if config.gguf_file else None)
    if isinstance(error, SafetensorError):
        hint = "copy or download the checkpoint again"
        return CorruptDataError(f"the weights of {config.model!r} are damaged: {reason}", hint=hint)
    if is_from_the_network(error) or (isinstance(error, OSError) and not Path(config.path).is_dir()):
        return remote_error("model", config.model, config.revision, error)
    if not isinstance(error, OSError | ValueError):
        problem = f"cannot load {config.model!r}: {type(error).__name__}: {reason}"
    hint = "gguf_file is the name of a GGUF file in that folder" if config.gguf_file else _FOLDER_HINT
    return ConfigError(problem, hint=hint)


def _check_weights(config: ModelConfig, loaded: Mapping[str, Any]) -> None:
    """Raises ConfigError unless the checkpoint has exactly the model's weights, all of the right shape.

    Otherwise transformers makes up what is missing, at random, and only warns.
    """
    problems = {
        "missing": sorted(loaded["missing_keys"]),
        "unexpected": sorted(loaded["unexpected_keys"]),
        "of another shape": sorted(_mismatch(*entry) for entry in loaded["mismatched_keys"]),
        "unreadable": sorted(map(str, loaded["error_msgs"])),
    }
    if any(problems.values()):
        lines = [f"  {kind}: {_listed(names)}" for kind, names in problems.items() if names]
        raise ConfigError(
            f"the checkpoint {config.model!r} does not have the weights of its model:\n" + "\n".join(lines),
            hint="copy or download the checkpoint again, and check that config.json belongs to it",
        )


def _mismatch(name: str, stored: Iterable[int], expected: Iterable[int]) -> str:
    return f"{name} {tuple(stored)}, not {tuple(expected)}"


def _listed(names: Sequence[str], limit: int = 8) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
