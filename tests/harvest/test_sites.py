"""What each site holds, in every family: the parts add up, and replacing one moves the residual stream by just that."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from saepipe.data.errors import ConfigError
from saepipe.evaluate.features.logits import added_to_the_stream
from saepipe.evaluate.model.upper_layers import upper_layers
from saepipe.harvest.capture import capture
from saepipe.harvest.decoder_layers import decoder_layers
from saepipe.harvest.hook_point import KINDS, HookPoint, Kind
from saepipe.harvest.site_hook import hook_site
from saepipe.harvest.sites import layer_of, site_of, width_of
from tests.helpers.families import FAMILIES, IDS, LLAMA, model_of

pytestmark = pytest.mark.quick

LAYER = 1
ABSENT: dict[str, set[Kind]] = {
    **{family: {"hook_resid_mid"} for family in ("cohere", "cohere2", "gptj", "gpt_neox", "falcon", "falcon, new")},
    "stablelm, parallel": {"hook_resid_mid"},
    "mamba": {*KINDS} - {"hook_resid_pre", "hook_resid_post"},
}
Tensors = dict[str, Tensor]
LAYER_SCALAR = 0.7


def plain_sum(at: Tensors, layer: torch.nn.Module) -> Tensor:
    return at["hook_resid_pre"] + at["hook_attn_out"] + at["hook_mlp_out"]


def after_its_norm(at: Tensors, layer: torch.nn.Module) -> Tensor:
    return layer.final_layer_norm(at["hook_resid_mid"] + at["hook_mlp_out"])


def mid_after_its_norm(at: Tensors, layer: torch.nn.Module) -> Tensor:
    return layer.post_attention_layernorm(at["hook_resid_mid"]) + at["hook_mlp_out"]


OUTPUTS: dict[str, Callable[[Tensors, torch.nn.Module], Tensor]] = {
    "gemma4_text": lambda at, layer: LAYER_SCALAR * plain_sum(at, layer),
    "opt, norms after": after_its_norm,
    "bloom, residual after norm": mid_after_its_norm,
}
"""A layer's output from its sites, where it is not x + attn_out + mlp_out."""
BRANCH = {"gemma4_text, per-layer input", "gemma4_text, shared keys and values"}
"""Families in which a third branch reads the residual stream after the MLP."""


def sites(family: str) -> Iterator[HookPoint]:
    for kind in KINDS:
        if kind not in ABSENT.get(family, ()):
            yield HookPoint(LAYER, kind)


def captured(family: str) -> Tensors:
    hooks = list(sites(family))
    activations = capture(model_of(family), IDS, hooks)
    return {hook.kind: activations[str(hook)] for hook in hooks}


@torch.no_grad()
def spliced(model: PreTrainedModel, hook: HookPoint, see: Callable[[Tensor], Tensor], read: HookPoint) -> Tensor:
    """Returns what is at `read` when `see` replaces what is at `hook`."""
    with hook_site(model, hook, see):
        return capture(model, IDS, [read])[str(read)]


@pytest.mark.parametrize("family", FAMILIES)
def test_widths_are_known_before_a_pass(family: str) -> None:
    for kind, x in captured(family).items():
        assert x.shape == (*IDS.shape, width_of(model_of(family), HookPoint(LAYER, kind))), kind


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"mamba", *BRANCH}))
@torch.no_grad()
def test_sites_add_up_to_the_layers_output(family: str) -> None:
    at, layer = captured(family), layer_of(model_of(family), HookPoint(LAYER, "hook_resid_pre"))
    torch.testing.assert_close(OUTPUTS.get(family, plain_sum)(at, layer), at["hook_resid_post"], rtol=0, atol=2e-5)
    if "hook_resid_mid" in at and family not in OUTPUTS:
        torch.testing.assert_close(at["hook_resid_pre"] + at["hook_attn_out"], at["hook_resid_mid"], rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_model_with_its_own_activations_at_a_site_is_the_model(family: str) -> None:
    model, at = model_of(family), captured(family)
    whole = model(input_ids=IDS, use_cache=False).logits
    for hook in sites(family):
        with upper_layers(model, hook) as run_upper:
            torch.testing.assert_close(run_upper(IDS, at[hook.kind]), whole, rtol=0, atol=1e-5)
            other = run_upper(IDS, at[hook.kind] + torch.linspace(-1, 1, at[hook.kind].shape[-1]))
        assert float((other - whole).abs().max()) > 1e-3, hook
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"mamba"}))
def test_doubling_attention_or_mlp_moves_the_stream_by_what_they_add(family: str) -> None:
    model, at = model_of(family), captured(family)
    post = HookPoint(LAYER, "hook_resid_post")
    if "hook_resid_mid" in at and "norm" not in family:
        moved = spliced(model, HookPoint(LAYER, "hook_attn_out"), lambda a: 2 * a, HookPoint(LAYER, "hook_resid_mid"))
        torch.testing.assert_close(moved - at["hook_resid_mid"], at["hook_attn_out"], rtol=0, atol=1e-5)
    if family not in {*BRANCH, "opt, norms after"}:
        moved = spliced(model, HookPoint(LAYER, "hook_mlp_out"), lambda m: 2 * m, post) - at["hook_resid_post"]
        factor = LAYER_SCALAR if family.startswith("gemma4") else 1
        torch.testing.assert_close(moved, factor * at["hook_mlp_out"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - ABSENT.keys() - OUTPUTS.keys() - BRANCH))
def test_a_replaced_resid_mid_reaches_both_the_mlp_and_the_sum(family: str) -> None:
    """With resid_mid at 0, the layer's output is what the MLP makes of 0, added to 0."""
    model, mid = model_of(family), HookPoint(LAYER, "hook_resid_mid")
    sums = spliced(model, mid, torch.zeros_like, HookPoint(LAYER, "hook_resid_post"))
    mlp = spliced(model, mid, torch.zeros_like, HookPoint(LAYER, "hook_mlp_out"))
    torch.testing.assert_close(sums, mlp, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"mamba"}))
@torch.no_grad()
def test_heads_go_through_the_output_projection(family: str) -> None:
    model, at, z = model_of(family), captured(family), HookPoint(LAYER, "attn.hook_z")
    attention, projection = site_of(model, HookPoint(LAYER, "hook_attn_out")), site_of(model, z)
    inputs = at["attn.hook_z"]
    if "norm" in attention.module:  # a norm follows
        with pytest.raises(Exception, match=f"only through {attention.module}"):
            added_to_the_stream(model, z, inputs)
        return
    module = layer_of(model, z).get_submodule(projection.module)
    torch.testing.assert_close(attention.factor * module(inputs), at["hook_attn_out"], rtol=0, atol=1e-5)
    bias = attention.factor * module(torch.zeros_like(inputs))
    torch.testing.assert_close(added_to_the_stream(model, z, inputs) + bias, at["hook_attn_out"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"mamba"}))
@torch.no_grad()
def test_mlp_in_is_all_that_the_mlp_reads(family: str) -> None:
    """Every token's MLP output follows from its own mlp_in: swapping tokens swaps outputs."""
    model, at = model_of(family), captured(family)
    swapped = spliced(model, HookPoint(LAYER, "hook_mlp_in"), lambda x: x.flip(0), HookPoint(LAYER, "hook_mlp_out"))
    torch.testing.assert_close(swapped, at["hook_mlp_out"].flip(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ABSENT)
def test_sites_that_a_family_lacks_are_refused(family: str) -> None:
    for kind in ABSENT[family]:
        with pytest.raises(ConfigError, match="has no such site"):
            width_of(model_of(family), HookPoint(LAYER, kind))


def test_bloom_with_sliced_projections_has_only_what_its_layers_give() -> None:
    model = model_of("bloom")
    model.config.slow_but_exact, model.config.pretraining_tp = True, 2
    try:
        assert site_of(model, HookPoint(LAYER, "hook_resid_mid")).module == "self_attention"
        with pytest.raises(ConfigError, match="has no such site"):
            site_of(model, HookPoint(LAYER, "hook_mlp_out"))
    finally:
        model.config.slow_but_exact, model.config.pretraining_tp = False, 1


def test_what_falcon_overwrites_is_kept() -> None:
    """Its layers add the attention's output to the MLP's in place, after the hook."""
    at, model = captured("falcon"), model_of("falcon")
    stopped = capture(model, IDS, [HookPoint(LAYER, "hook_mlp_out")])["blocks.1.hook_mlp_out"]
    torch.testing.assert_close(at["hook_mlp_out"], stopped, rtol=0, atol=0)
    constant = torch.zeros_like(at["hook_mlp_out"])
    spliced(model, HookPoint(LAYER, "hook_mlp_out"), lambda _: constant, HookPoint(2, "hook_resid_post"))
    assert not constant.any()


def test_the_width_of_the_heads_may_differ_by_layer() -> None:
    model = model_of("gemma4_text")
    widths = [width_of(model, HookPoint(layer, "attn.hook_z")) for layer in range(len(decoder_layers(model)))]
    assert widths == [32, 64, 64]  # sliding, full, and the last one, which is always full


@torch.no_grad()
def test_the_text_layers_of_a_multimodal_model() -> None:
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=LLAMA, vision_config=vision, mm_tokens_per_image=4, attn_implementation="eager")
    model = Gemma3ForConditionalGeneration(config).eval()
    whole = model(input_ids=IDS, use_cache=False).logits
    for kind in KINDS:
        hook = HookPoint(LAYER, kind)
        x = capture(model, IDS, [hook])[str(hook)]
        assert x.shape[-1] == width_of(model, hook)
        with upper_layers(model, hook) as run_upper:
            torch.testing.assert_close(run_upper(IDS, x), whole, rtol=0, atol=1e-5)


def test_a_refused_site_leaves_no_hook_behind() -> None:
    model = model_of("gptj")
    with pytest.raises(ConfigError, match="has no such site"):
        hook_site(model, HookPoint(LAYER, "hook_resid_mid"), lambda _: None)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_unknown_family_has_only_the_stream_between_layers() -> None:
    model = LlamaForCausalLM(LlamaConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    model.config.model_type = "unheard-of"
    assert width_of(model, HookPoint(0, "hook_resid_post")) == 8
    with pytest.raises(ConfigError, match="the sites inside a layer of 'unheard-of' are not known"):
        width_of(model, HookPoint(0, "hook_mlp_out"))
