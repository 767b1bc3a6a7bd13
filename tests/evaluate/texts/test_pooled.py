"""Activations of texts, computed once, and their means over tokens."""

from __future__ import annotations

import pytest
import torch

from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae import reconstruction
from saepipe.evaluate.texts import pooled
from saepipe.evaluate.texts.pooled import TextActivations, activations_work, pooled_latents, text_activations
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.model import LanguageModel
from saepipe.train.sae.base import Architecture

HOOK = "blocks.1.hook_resid_post"
TEXTS = ["The nurse works.", "A long story about a cat and its kettle, told at night. " * 4, "No"]


def test_batched_activations_equal_those_of_each_text_alone(toy_testbed: Testbed, toy: LanguageModel) -> None:
    """Padding on the right changes nothing before it, in layers with sliding and with full attention."""
    work = activations_work(Work("by hand", {}), 40)
    activations = text_activations(toy_testbed, TEXTS, work, "three", Silent())
    for index, text in enumerate(TEXTS):
        body = toy.tokenizer(text, add_special_tokens=False)["input_ids"][:39]
        ids = torch.tensor([[toy.bos_id, *body]])
        alone = capture(toy.model, ids, [HookPoint.parse(HOOK)])[HOOK][0, 1:]
        batched = activations.x[activations.offsets[index] : activations.offsets[index + 1]]
        torch.testing.assert_close(batched, alone, atol=1e-5, rtol=1e-5)
        assert activations.num_special[index] == 40 - len(body)
        torch.testing.assert_close(activations.pooled()[index], alone.mean(0), atol=1e-5, rtol=1e-5)
    assert toy_testbed.passes.lower == 3
    text_activations(toy_testbed, TEXTS, work, "three", Silent())
    assert toy_testbed.passes.lower == 3


def test_a_text_without_an_ordinary_token_is_an_error(toy_testbed: Testbed) -> None:
    with pytest.raises(ConfigError, match="text 1 of two has no ordinary token: ''"):
        text_activations(toy_testbed, ["yes", ""], activations_work(Work("by hand", {}), 40), "two", Silent())


@pytest.mark.parametrize("chunk", [1, 7 * 6, 2**26])
@pytest.mark.parametrize("dense_above", [0.0, 1.0])
def test_pooling_depends_neither_on_chunks_nor_on_density(
    make_sae, subject_of, chunk: int, dense_above: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a first chunk, texts with many active latents are encoded densely."""
    monkeypatch.setattr(reconstruction, "MAX_HELD", chunk)
    monkeypatch.setattr(pooled, "DENSE_ABOVE", dense_above)
    rng = torch.Generator().manual_seed(0)
    lengths = torch.tensor([3, 1, 9, 2, 2])
    x = torch.randn(int(lengths.sum()), 4, generator=rng)
    activations = TextActivations(x, torch.cat([torch.zeros(1), lengths.cumsum(0)]).long(), torch.ones(5).long())
    subject = subject_of(make_sae(torch.randn(4, 6, generator=rng), torch.randn(6, 4, generator=rng)))
    parts = x.split(lengths.tolist())
    torch.testing.assert_close(activations.pooled(), torch.stack([part.mean(0) for part in parts]))
    expected = torch.stack([subject.sae.encode(part).mean(0) for part in parts])
    torch.testing.assert_close(pooled_latents(subject, activations), expected)
    some = torch.tensor([4, 1])
    torch.testing.assert_close(pooled_latents(subject, activations, some), expected[:, some])


@pytest.mark.parametrize("name", ["relu", "jumprelu", "gated", "topk"])
def test_encoding_some_latents_equals_encoding_all(name: str) -> None:
    settings = {"name": name, "d_sae": 12} | ({"k": 3} if name == "topk" else {})
    sae = Architecture.member(name).model_validate(settings)
    assert isinstance(sae, Architecture)
    rng = torch.Generator().manual_seed(1)
    params = {key: value + torch.randn(value.shape, generator=rng) / 3 for key, value in sae.init(5, 1.0, rng).items()}
    x, some = torch.randn(20, 5, generator=rng), torch.tensor([7, 0, 3])
    whole = sae.encode(params, x)
    assert (whole > 0).any()
    torch.testing.assert_close(sae.encode_some(params, x, some), whole[:, some])
