"""The upper layers fed with the activations at a hook give the same logits as the full forward, at every hook."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from saepipe.data.errors import ConfigError
from saepipe.evaluate.model.upper_layers import upper_layers
from saepipe.harvest.capture import capture
from saepipe.harvest.decoder_layers import decoder_layers
from saepipe.harvest.hook_point import HookPoint
from tests.helpers.families import IDS, model_of

WINDOW, SEQ, VOCAB, LAYERS = 8, 24, 64, 5


def gemma2() -> Gemma2ForCausalLM:
    """Random weights, large enough for attention to matter; contexts three times as long as the sliding window."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=WINDOW,
        initializer_range=0.5,
        attn_implementation="eager",
    )
    return Gemma2ForCausalLM(config).eval()


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=4
        )
    ).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=64, bos_token_id=0)
    ).eval()


def ids() -> torch.Tensor:
    return torch.randint(VOCAB, (3, SEQ), generator=torch.Generator().manual_seed(1))


HOOKS = [f"blocks.{layer}.hook_resid_{kind}" for layer in range(LAYERS) for kind in ("pre", "post")]


@pytest.mark.parametrize("build", [gemma2, llama, gpt2])
@pytest.mark.parametrize("name", HOOKS)
@torch.no_grad()
def test_logits_of_the_upper_layers_equal_the_full_forward(build, name: str) -> None:
    model, hook = build(), HookPoint.parse(name)
    x = capture(model, ids(), [hook])[name]
    full = model(input_ids=ids()).logits
    with upper_layers(model, hook) as run_upper:
        assert torch.equal(run_upper(ids(), x), full)


@torch.no_grad()
def test_the_pattern_of_sliding_layers_matters() -> None:
    """Shortening the list changes these logits, so the test above would notice a shifted pattern."""
    model, hook = gemma2(), HookPoint.parse("blocks.0.hook_resid_post")
    x = capture(model, ids(), [hook])[str(hook)]
    full = model(input_ids=ids()).logits
    layers = decoder_layers(model)
    model.model.layers, model.config.num_hidden_layers = layers[1:], LAYERS - 1
    sliced = model(inputs_embeds=x, use_cache=False).logits
    assert (sliced - full)[:, WINDOW:].abs().max() > 0.1
    assert torch.allclose(sliced[:, :WINDOW], full[:, :WINDOW], atol=1e-4)


@torch.no_grad()
def test_layers_below_do_not_run() -> None:
    model, hook = gemma2(), HookPoint.parse("blocks.2.hook_resid_post")
    calls: list[int] = []
    for index, layer in enumerate(decoder_layers(model)):
        layer.register_forward_hook(lambda *_, index=index: calls.append(index))
    with upper_layers(model, hook) as run_upper:
        run_upper(ids(), torch.zeros(3, SEQ, 32))
    assert calls == [3, 4]


def test_the_model_is_restored_after_an_error() -> None:
    model, hook = gemma2(), HookPoint.parse("blocks.2.hook_resid_post")
    before = list(decoder_layers(model))
    with pytest.raises(RuntimeError), upper_layers(model, hook) as run_upper:
        run_upper(ids(), torch.zeros(3, SEQ, 7))
    assert all(a is b for a, b in zip(decoder_layers(model), before, strict=True))
    assert not any(layer._forward_pre_hooks for layer in before)


def test_a_hook_that_the_model_does_not_have_is_refused() -> None:
    model: PreTrainedModel = gemma2()
    with pytest.raises(ConfigError, match="5 layers"), upper_layers(model, HookPoint.parse("blocks.5.hook_resid_pre")):
        pass


@torch.no_grad()
def test_bfloat16_storage_costs_little() -> None:
    """Stored activations are bfloat16: the logits differ by rounding only."""
    model, hook = gemma2(), HookPoint.parse("blocks.2.hook_resid_post")
    x = capture(model, ids(), [hook])[str(hook)]
    full = model(input_ids=ids()).logits
    with upper_layers(model, hook) as run_upper:
        stored = run_upper(ids(), x.bfloat16())
    assert 0 < (stored - full).norm() / full.norm() < 0.02


@pytest.mark.parametrize("family", ["llama", "gpt_neo", "falcon", "mpt", "gemma4_text, per-layer input"])
@torch.no_grad()
def test_every_layer_of_models_whose_layers_give_tuples_too(family: str) -> None:
    model = model_of(family)
    whole = model(input_ids=IDS, use_cache=False).logits
    for layer in range(len(decoder_layers(model))):
        for kind in ("hook_resid_pre", "hook_resid_post"):
            hook = HookPoint.parse(f"blocks.{layer}.{kind}")
            x = capture(model, IDS, [hook])[str(hook)]
            with upper_layers(model, hook) as run_upper:
                torch.testing.assert_close(run_upper(IDS, x), whole, rtol=0, atol=1e-5)
