"""Tokens that a latent promotes, against the model's own modules; and the readable text of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from saepipe.data.errors import MachineError
from saepipe.data.toy import MODEL_DIR
from saepipe.evaluate.features import logits as stage
from saepipe.evaluate.features.logits import logits
from saepipe.evaluate.texts.token_texts import texts
from saepipe.harvest.model import load_model
from saepipe.harvest.model_config import ModelConfig

pytestmark = pytest.mark.quick

D_IN, VOCAB = 16, 40


def gemma() -> PreTrainedModel:
    config = Gemma2Config(vocab_size=VOCAB, hidden_size=D_IN, intermediate_size=8, num_hidden_layers=1, head_dim=8)
    return Gemma2ForCausalLM(config)


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCAB, hidden_size=D_IN, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=D_IN, n_layer=1, n_head=2))


def neox() -> PreTrainedModel:
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCAB, hidden_size=D_IN, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
        )
    )


def explicit(model: PreTrainedModel, W_dec: torch.Tensor) -> torch.Tensor:
    """Returns logits (d_sae, vocab) with each family's norm written out, without its division by length."""
    body: Any = model.base_model
    if isinstance(model, Gemma2ForCausalLM):
        through = W_dec * (1 + body.norm.weight)
    elif isinstance(model, LlamaForCausalLM):
        through = W_dec * body.norm.weight
    else:
        norm = body.ln_f if isinstance(model, GPT2LMHeadModel) else body.final_layer_norm
        through = (W_dec - W_dec.mean(1, keepdim=True)) * norm.weight
    return through @ model.get_output_embeddings().weight.T


@pytest.mark.parametrize("make", [gemma, llama, gpt2, neox])
@torch.no_grad()
def test_logits_match_the_models_own_modules(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = make()
    for parameter in model.parameters():  # a new norm has weights of 1 (or 0), which would hide errors
        parameter.add_(torch.randn_like(parameter) / 3)
    W_dec = torch.randn(9, D_IN)
    monkeypatch.setattr(stage, "rows_at_a_time", lambda width: 4)
    arrays, expected = logits(model, W_dec, 5), explicit(model, W_dec)
    for sign, largest in (("positive", True), ("negative", False)):
        best = expected.topk(5, dim=1, largest=largest)
        np.testing.assert_allclose(arrays[f"{sign}_values"], best.values, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(arrays[f"{sign}_ids"], best.indices)
    assert logits(model, W_dec, 100)["positive_ids"].shape == (9, VOCAB)


@torch.no_grad()
def test_only_the_division_by_length_is_left_out() -> None:
    """The model's own norm and unembedding give the same logits for a direction, up to one factor."""
    torch.manual_seed(0)
    model = gemma()
    model.base_model.norm.weight.add_(torch.randn(D_IN))
    row = torch.randn(1, D_IN)
    through = model.get_output_embeddings()(model.base_model.norm(row))
    arrays = logits(model, row, VOCAB)
    scaled = through[0] * row.square().mean().sqrt()
    np.testing.assert_allclose(arrays["positive_values"][0], scaled[arrays["positive_ids"][0].tolist()], atol=1e-4)


def test_a_model_with_an_unknown_final_norm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_NORMS", ("elsewhere",))
    with pytest.raises(MachineError, match="has a final norm in none of these places: elsewhere"):
        logits(gemma(), torch.randn(2, D_IN), 3)


def test_tokens_read_as_in_running_text() -> None:
    tokenizer = load_model(ModelConfig(model=str(MODEL_DIR), device="cpu")).tokenizer
    text = " The nurse, who sat on the mat; \u00e9t\u00e9.\n"
    ids = tokenizer.encode(text, add_special_tokens=False)
    by_id = texts(tokenizer, ids)
    assert "".join(by_id[token] for token in ids) == text.replace("\u00e9", r"\xc3\xa9")  # the toy only has the bytes
    assert any(piece.startswith(" ") for piece in by_id.values())
    special = tokenizer.bos_token_id
    assert texts(tokenizer, [special]) == {special: tokenizer.bos_token}


class Bytes:
    """A tokenizer with two tokens of half a character each, whose decoder strips the first space."""

    pieces: tuple[str, ...] = ("a", "\u2581the", "<0xC3>", "<0xA9>")

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert text == "a"
        return [0]

    def batch_decode(self, many: list[list[int]], **_: Any) -> list[str]:
        return [
            "".join({2: "\ufffd", 3: "\ufffd"}.get(i, self.pieces[i].replace("\u2581", " ")) for i in ids).lstrip()
            for ids in many
        ]

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [self.pieces[i] for i in ids]


def test_a_space_stays_and_half_a_character_keeps_its_name() -> None:
    assert texts(Bytes(), [1, 2, 3]) == {1: " the", 2: "<0xC3>", 3: "<0xA9>"}
