"""Hook points against Hugging Face's hidden states, and a forward pass that stops early."""

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
)

from saepipe.data.errors import ConfigError
from saepipe.harvest.capture import capture
from saepipe.harvest.decoder_layers import decoder_layers
from saepipe.harvest.hook_point import HookPoint
from tests.helpers.small_models import HEADS, IDS, SMALL

pytestmark = pytest.mark.quick


def gemma2(**settings: object) -> Gemma2ForCausalLM:
    torch.manual_seed(0)
    config = Gemma2Config(**SMALL, **HEADS, sliding_window=4, attn_implementation="eager", **settings)
    return Gemma2ForCausalLM(config).eval()


@pytest.mark.parametrize(
    "model",
    [
        gemma2(),
        LlamaForCausalLM(LlamaConfig(**SMALL, **HEADS)).eval(),
        GPT2LMHeadModel(GPT2Config(vocab_size=128, n_embd=16, n_layer=3, n_head=2)).eval(),
    ],
    ids=["gemma2", "llama", "gpt2"],
)
def test_hooks_are_hidden_states(model: Gemma2ForCausalLM) -> None:
    """blocks.L.hook_resid_post is hidden_states[L + 1], and resid_pre is hidden_states[L], except after the last layer,
    where Hugging Face lists the output of the final norm."""
    hooks = [HookPoint(layer, kind) for layer in range(3) for kind in ("hook_resid_pre", "hook_resid_post")]
    activations = capture(model, IDS, hooks)
    states = model(IDS, output_hidden_states=True).hidden_states
    for hook in hooks[:-1]:
        torch.testing.assert_close(activations[str(hook)], states[hook.num_layers_below], rtol=0, atol=0)
    assert not torch.allclose(activations["blocks.2.hook_resid_post"], states[3])


def test_layers_above_the_last_hook_do_not_run() -> None:
    model = gemma2()
    ran: list[int] = []
    for index, layer in enumerate(decoder_layers(model)):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    model.lm_head.register_forward_hook(lambda *_: ran.append(99))
    capture(model, IDS, [HookPoint.parse("blocks.1.hook_resid_pre"), HookPoint.parse("blocks.0.hook_resid_post")])
    assert ran == [0]
    assert not any(layer._forward_pre_hooks for layer in decoder_layers(model))


@pytest.mark.parametrize("name", ["blocks.x.hook_resid_post", "model.layers.3", "blocks.1.hook_mlp_mid", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a hook"):
        HookPoint.parse(name)


def test_a_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="the model has 3 layers"):
        HookPoint.parse("blocks.3.hook_resid_post").check_in(len(decoder_layers(gemma2())))
