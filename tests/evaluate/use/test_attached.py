"""An SAE attached to the toy model: steering, ablating, splicing and attributing do what they claim, and end."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from saepipe.data.cache.cache import open_cache
from saepipe.data.errors import ConfigError
from saepipe.evaluate.features.logits import logits
from saepipe.evaluate.model.next_token import predict
from saepipe.evaluate.use.sae import SAE
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.site_hook import hook_site

HOOK = HookPoint.parse("blocks.2.hook_resid_post")
BOS = 2


@pytest.fixture
def strongest(toy_model: PreTrainedModel, toy_sae: SAE, heldout_ids: Tensor) -> list[int]:
    """Returns the latents with the largest sums of activations."""
    with torch.no_grad(), toy_sae.attach(toy_model) as latents:
        toy_model(heldout_ids)
    assert latents.acts is not None
    return latents.acts.sum((0, 1)).topk(6).indices.tolist()


def log_probs(model: PreTrainedModel, ids: Tensor) -> Tensor:
    return model(ids).logits.log_softmax(-1)


@torch.no_grad()
def test_steering_raises_what_a_latent_promotes_and_ablating_lowers_it(
    toy_model: PreTrainedModel, toy_sae: SAE, heldout_ids: Tensor, strongest: list[int]
) -> None:
    promoted = logits(toy_model, toy_sae.W_dec, 5)["positive_ids"]
    with toy_sae.attach(toy_model) as latents:
        clean = log_probs(toy_model, heldout_ids)
        acts = latents.acts
        assert acts is not None
        for latent in strongest:
            tokens, largest = promoted[latent].tolist(), float(acts[..., latent].max())
            latents.clear().steer(latent, largest)
            steered = log_probs(toy_model, heldout_ids) - clean
            latents.clear().ablate(latent)
            ablated = log_probs(toy_model, heldout_ids) - clean
            assert steered[..., tokens].mean() > 1
            assert ablated[acts[..., latent] > 0][:, tokens].mean() < -0.3
            assert steered[..., tokens].mean() > steered.mean() + 1  # these tokens rise, not the unlikely ones alike


@torch.no_grad()
def test_the_edits_at_the_hook(toy_model: PreTrainedModel, toy_sae: SAE, heldout_ids: Tensor) -> None:
    """What the layers above read, against the formulas; BOS keeps its activations."""
    x = capture(toy_model, heldout_ids, [HOOK])[str(HOOK)]
    acts, W_dec = toy_sae.encode(x), toy_sae.W_dec
    text = (heldout_ids != BOS).unsqueeze(-1)
    others = acts.clone()
    others[..., [3, 5]] = 0
    with toy_sae.attach(toy_model) as latents:
        read = {}
        for name in ("steer", "clamp", "ablate", "splice", "both"):
            latents.clear()
            if name in ("steer", "both"):
                latents.steer(3, 2.5)
            if name == "clamp":
                latents.clamp(3, 2.5)
            if name == "ablate":
                latents.ablate([3, 5])
            if name in ("splice", "both"):
                latents.splice()
            read[name] = capture(toy_model, heldout_ids, [HookPoint(3, "hook_resid_pre")])["blocks.3.hook_resid_pre"]
    expected = {
        "steer": x + 2.5 * W_dec[3],
        "clamp": x + (2.5 - acts[..., 3:4]) * W_dec[3],
        "ablate": x - acts[..., [3, 5]] @ W_dec[[3, 5]],
        "splice": toy_sae.decode(acts),
        "both": toy_sae.decode(acts) + 2.5 * W_dec[3],
    }
    for name, stream in expected.items():
        torch.testing.assert_close(read[name], torch.where(text, stream, x), rtol=1e-5, atol=1e-4)
    assert torch.equal(latents.acts, acts * text)


@torch.no_grad()
def test_a_splice_has_the_loss_that_core_measures(
    toy_model: PreTrainedModel, toy_sae: SAE, heldout_ids: Tensor, toy_cache: Path, toy_run: Path
) -> None:
    metrics = json.loads((toy_run / "eval" / "core.json").read_text())["eval_result_metrics"]
    keep = torch.from_numpy(open_cache(toy_cache).heldout.keep[: len(heldout_ids)])
    scored = keep[:, :-1] & keep[:, 1:]
    clean = toy_model(heldout_ids).logits
    for name in ("without", "with"):
        with toy_sae.attach(toy_model) as latents:
            if name == "with":
                latents.splice()
            ce = predict(toy_model(heldout_ids).logits, heldout_ids, clean).ce[:, :-1][scored]
        expected = metrics["model_performance_preservation"][f"ce_loss_{name}_sae"]
        assert float(ce.mean()) == pytest.approx(expected, abs=1e-5)


def test_attribution_is_acts_times_the_slope(
    toy_model: PreTrainedModel, toy_sae: SAE, heldout_ids: Tensor, strongest: list[int]
) -> None:
    """Central differences of a logit as the stream moves along a decoder row at one token."""
    model, ids, step = toy_model, heldout_ids[:1, :12], 0.03  # the model's norms are float32: no smaller step
    with toy_sae.attach(model) as latents:
        attribution = latents.attribute(model(ids).logits[0, -1, 7])
    assert latents.acts is not None
    assert attribution.shape == latents.acts.shape
    assert not attribution[latents.acts == 0].any()
    largest = attribution.abs().flatten().topk(5).indices
    for index in largest.tolist():
        token, latent = divmod(index, toy_sae.d_sae)
        moved = {sign: _logit(model, ids, token, sign * step * toy_sae.W_dec[latent]) for sign in (1, -1)}
        slope = (moved[1] - moved[-1]) / (2 * step)
        expected = float(latents.acts[0, token, latent]) * slope
        assert float(attribution[0, token, latent]) == pytest.approx(expected, rel=5e-3)


@torch.no_grad()
def _logit(model: PreTrainedModel, ids: Tensor, token: int, shift: Tensor) -> float:
    def see(x: Tensor) -> Tensor:
        x = x.clone()
        x[0, token] += shift
        return x

    with hook_site(model, HOOK, see):
        return float(model(ids).logits[0, -1, 7])


def test_attribution_with_frozen_weights_and_a_spliced_reconstruction(
    toy_model: PreTrainedModel, toy_sae: SAE, heldout_ids: Tensor
) -> None:
    frozen = copy.deepcopy(toy_model).requires_grad_(False)
    results = []
    for model in (toy_model, frozen):
        with toy_sae.attach(model) as latents:
            latents.splice()
            results.append(latents.attribute(model(heldout_ids[:2]).logits[:, -1, 7].sum()))
    torch.testing.assert_close(results[0], results[1])
    assert results[0].any()


@torch.no_grad()
def test_generation_steers_every_token_and_needs_no_second_pass_over_the_text(
    toy_model: PreTrainedModel, toy_sae: SAE, heldout_ids: Tensor, strongest: list[int]
) -> None:
    prompt = heldout_ids[:1, :6]
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    before = toy_model.generate(prompt, **options)
    with toy_sae.attach(toy_model) as latents:
        latents.steer(strongest[0], 30.0)
        cached = toy_model.generate(prompt, **options)
        whole = toy_model.generate(prompt, **options, use_cache=False)
    assert torch.equal(cached, whole)
    assert not torch.equal(cached, before)
    assert torch.equal(toy_model.generate(prompt, **options), before)


def test_the_model_is_as_it_was_after_an_error(toy_model: PreTrainedModel, toy_sae: SAE, heldout_ids: Tensor) -> None:
    with pytest.raises(IndexError), toy_sae.attach(toy_model) as latents:
        latents.splice().attribute(toy_model(heldout_ids).logits[..., 10**6])
    hooks = [module for module in toy_model.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert hooks == []


@torch.no_grad()
def test_which_tokens_are_skipped(toy_model: PreTrainedModel, toy_sae: SAE, heldout_ids: Tensor) -> None:
    with toy_sae.attach(toy_model, skip_ids=[]) as latents:
        toy_model(heldout_ids)
        assert latents.acts is not None
        assert latents.acts[:, 0].any()
    with toy_sae.attach(toy_model) as latents:
        toy_model(heldout_ids)
        assert not latents.acts[:, 0].any()
        toy_model(inputs_embeds=toy_model.get_input_embeddings()(heldout_ids[:1, :5]))
        assert latents.acts.shape == (1, 5, toy_sae.d_sae)


def test_mistakes(toy_model: PreTrainedModel, toy_sae: SAE, heldout_ids: Tensor) -> None:
    with pytest.raises(ConfigError, match="4 layers"), toy_sae.attach(toy_model, "blocks.4.hook_resid_post"):
        pass
    narrow = SAE(toy_sae.settings, {name: value[:9] for name, value in toy_sae.named_parameters()}, {})
    with pytest.raises(ConfigError, match="does not say its hook"):
        narrow.attach(toy_model)
    with pytest.raises(ConfigError, match="width 9, the model has 128"):
        narrow.attach(toy_model, str(HOOK))
    with pytest.raises(ConfigError, match="Linear holds no Hugging Face model"):
        toy_sae.attach(torch.nn.Linear(1, 1))
    with toy_sae.attach(toy_model) as latents:
        with pytest.raises(ConfigError, match="no latent 128"):
            latents.steer(128, 1.0)
        with torch.no_grad():
            scalar = toy_model(heldout_ids).logits.sum()
        with pytest.raises(ConfigError, match="no gradient"):
            latents.attribute(scalar)
