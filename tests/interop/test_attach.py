"""An SAE attached to the models of TransformerLens and nnsight acts as in the Hugging Face model inside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from saepipe.data.toy import MODEL_DIR
from saepipe.evaluate.use.sae import SAE
from saepipe.train.sae.base import Architecture
from saepipe.train.sae.topk import TopK

pytestmark = pytest.mark.interop

IDS = torch.tensor([[2, 50, 60, 70, 80, 90]])


@pytest.fixture
def toy_model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()


@pytest.fixture
def sae() -> SAE:
    settings: Architecture = TopK(d_sae=64, k=4)
    params = settings.init(128, 1.0, torch.Generator().manual_seed(0))
    return SAE(settings, params, {"hook_name": "blocks.2.hook_resid_post"})


@pytest.fixture
def expected(toy_model: PreTrainedModel, sae: SAE) -> tuple[Tensor, Tensor]:
    """Returns the logits of the steered model, and the latents."""
    with torch.no_grad(), sae.attach(toy_model) as latents:
        steered = latents.steer(3, 20.0).model(IDS).logits
    assert latents.acts is not None
    assert (steered - toy_model(IDS).logits).abs().max() > 1
    return steered, latents.acts


def test_a_bridge_of_transformer_lens(toy_model: PreTrainedModel, sae: SAE, expected: tuple[Tensor, Tensor]) -> None:
    bridges = pytest.importorskip("transformer_lens.model_bridge")
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    bridge = bridges.TransformerBridge.boot_transformers(
        str(MODEL_DIR), hf_model=toy_model, tokenizer=tokenizer, device="cpu"
    )
    clean = bridge(IDS)
    with sae.attach(bridge) as latents:
        torch.testing.assert_close(latents.steer(3, 20.0) and bridge(IDS), expected[0])
        torch.testing.assert_close(latents.acts, expected[1])
    assert torch.equal(bridge(IDS), clean)


def test_a_language_model_of_nnsight(toy_model: PreTrainedModel, sae: SAE, expected: tuple[Tensor, Tensor]) -> None:
    nnsight = pytest.importorskip("nnsight")
    kind = getattr(nnsight, "TransformersModel", None) or nnsight.LanguageModel  # the name before nnsight 0.8
    model = kind(toy_model, tokenizer=AutoTokenizer.from_pretrained(MODEL_DIR))
    with sae.attach(model) as latents:
        latents.steer(3, 20.0)
        with model.trace(IDS):
            steered = model.output.logits.save()
        torch.testing.assert_close(steered, expected[0])
        torch.testing.assert_close(latents.acts, expected[1])
