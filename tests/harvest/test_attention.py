"""Attention implementations are compared with eager: one that differs is refused, and `auto` passes over it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from saepipe.data.errors import ConfigError
from saepipe.harvest import attention
from saepipe.harvest.attention import check_attention, with_fastest_attention
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.model_config import ModelConfig
from tests.helpers.small_models import HEADS, IDS, SMALL

pytestmark = pytest.mark.quick

HOOKS = [HookPoint.parse("blocks.2.hook_resid_post")]


def uncapped(*inputs: Any, softcap: float, **settings: Any) -> Any:
    """sdpa, which a Gemma-2 would call without its soft-capping."""
    return sdpa_attention_forward(*inputs, **settings)


AttentionInterface.register("uncapped", uncapped)
AttentionMaskInterface.register("uncapped", sdpa_mask)


def language_model(model: Any, **settings: Any) -> LanguageModel:
    tokenizer = load_model(ModelConfig(device="cpu")).tokenizer
    return LanguageModel(model.eval(), tokenizer, ModelConfig(dtype="float32", **settings))


@pytest.fixture
def capped() -> LanguageModel:
    """A model with large queries and a small cap, so that capping matters."""
    torch.manual_seed(0)
    settings = {"sliding_window": 4, "attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 1}
    model = Gemma2ForCausalLM(Gemma2Config(**SMALL, **HEADS, **settings, attn_implementation="eager"))
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data *= 40
    return language_model(model, attention="auto")


@pytest.fixture
def llama() -> LanguageModel:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMALL, **HEADS, attn_implementation="eager"))
    return language_model(model, attention="auto")


def test_attention_that_drops_the_soft_capping_is_refused(capped: LanguageModel) -> None:
    check_attention(replace(capped, config=ModelConfig()), IDS, HOOKS)
    capped.model.set_attn_implementation("uncapped")
    config = ModelConfig.model_construct(**{**capped.config.to_dict(), "attention": "uncapped"})
    with pytest.raises(ConfigError, match="ignores the soft-capping at 1.0"):
        check_attention(replace(capped, config=config), IDS, HOOKS)


def test_auto_takes_the_first_that_agrees_with_eager(llama: LanguageModel) -> None:
    lm = with_fastest_attention(llama, IDS, HOOKS)
    assert lm.config.attention == lm.identity["config"]["attention"] == "sdpa"


@pytest.mark.parametrize(
    "candidate", ["uncapped", "sdpa", "flash_attention_2"], ids=["differs", "lacking", "no package"]
)
def test_auto_is_eager_if_nothing_else_agrees(
    capped: LanguageModel, monkeypatch: pytest.MonkeyPatch, candidate: str
) -> None:
    monkeypatch.setattr(attention, "FASTEST_FIRST", {"cpu": (candidate,)})
    lm = with_fastest_attention(capped, IDS, HOOKS)
    assert lm.config.attention == lm.identity["config"]["attention"] == lm.model.config._attn_implementation == "eager"


def test_attention_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot load 'toy'.*scaled_dot_product_attention"):
        load_model(ModelConfig(attention="sdpa", device="cpu"))
