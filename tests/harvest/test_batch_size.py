"""Automatic batch sizes: as many tokens as fit in half of the free memory, by an estimate that is near the truth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from saepipe.harvest import batch_size
from saepipe.harvest.batch_size import MOST_TOKENS, bytes_per_token, contexts_that_fit
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.model_config import ModelConfig
from saepipe.harvest.selection import Activations, pack_train
from tests.helpers.live_memory import peak_bytes

pytestmark = pytest.mark.quick

HOOKS = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
GIB = 2**30


def config(**settings: Any) -> HarvestConfig:
    return HarvestConfig.parse({"hooks": HOOKS, "batch_size": "auto", "shard_rows": 1024, **settings})


@pytest.fixture(scope="module")
def toy() -> LanguageModel:
    return load_model(ModelConfig(dtype="float32", device="cpu"))


@pytest.mark.parametrize(("context_size", "contexts"), [(128, 32), (100, 32), (1024, 4), (3000, 1), (8192, 1)])
def test_with_memory_enough_tokens_decide(
    toy: LanguageModel, monkeypatch: pytest.MonkeyPatch, context_size: int, contexts: int
) -> None:
    monkeypatch.setattr(batch_size, "free_ram", lambda: 1000 * GIB)
    assert contexts_that_fit(config(context_size=context_size), toy) == contexts
    assert contexts == 1 or contexts * context_size <= MOST_TOKENS["cpu"]


def test_with_little_memory_that_decides(toy: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config()
    pools = 2 * settings.pool_rows * ((2 * 128 + 4) * len(HOOKS) + 12)
    sizes = []
    for contexts in (-50, 0, 1, 7, 8, 10**6):  # the first has less than the pools alone need
        free = pools + 2 * batch_size.PASSES * bytes_per_token(settings, toy) * 128 * contexts
        monkeypatch.setattr(batch_size, "free_ram", lambda free=free: free)
        sizes.append(contexts_that_fit(settings, toy))
    assert sizes == [1, 1, 1, 4, 8, 32]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "toy"])
def test_the_estimate_is_near_what_a_pass_holds(toy: LanguageModel, name: str, attention: str) -> None:
    """At least what a pass holds at its largest moment, and less than three times that."""
    if (name, attention) == ("toy", "sdpa"):
        attention = "eager"  # the toy has no other
    settings: dict[str, Any] = {"vocab_size": 256, "attn_implementation": attention}
    llama = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2, "num_attention_heads": 4}
    models: dict[str, Any] = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**settings, **llama)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**settings, n_embd=64, n_layer=2, n_head=4)),
        "toy": lambda: toy.model,
    }
    lm = LanguageModel(models[name]().eval(), toy.tokenizer, ModelConfig(dtype="float32", attention=attention))
    ids = torch.randint(10, 250, (8, 128))
    peak = peak_bytes(lambda: _pass(lm, ids))
    estimate = bytes_per_token(config(), lm) * ids.numel()
    assert peak <= estimate < 3 * peak


def _pass(lm: LanguageModel, ids: torch.Tensor) -> Any:
    from saepipe.harvest.capture import capture

    x = capture(lm.model, ids, config().hook_points)
    parts = {hook: Activations.of(x[hook]) for hook in HOOKS}
    return parts, pack_train(parts, torch.arange(ids.numel()), {})
