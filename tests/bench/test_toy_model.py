"""The embedded model and its tokenizer, and the code that builds and measures them."""

from __future__ import annotations

import sys
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2ForCausalLM

from helpers.repository import BENCH

sys.path.append(str(BENCH / "toy_model"))

from build_toy import CONTEXT_SIZE, SPECIAL_TOKENS, new_model, train, train_tokenizer, windows
from measure_toy import first_letter_accuracy, letter_prompts, unigram_nats

from saepipe.data.cache.heldout_split import heldout_score
from saepipe.data.toy import ASKED_WORDS, MODEL_DIR, SPELLED_ONLY_WORDS, WORDS, documents

TOKENIZER = AutoTokenizer.from_pretrained(MODEL_DIR, local_files_only=True)


@pytest.fixture(scope="module")
def model() -> Gemma2ForCausalLM:
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR, local_files_only=True, dtype=torch.float32)


def one_token(text: str) -> int:
    (token,) = TOKENIZER.encode(text, add_special_tokens=False)
    return token


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda s: not any(t in s for t in SPECIAL_TOKENS)))
def test_any_text_is_decoded_exactly(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert ids[0] == TOKENIZER.bos_token_id
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text
    assert TOKENIZER.unk_token_id not in ids


@pytest.mark.parametrize("text", [" ", "\n\n", "  a", "a ' s . , ?", "▁x ▁", "\u00a0é ", "日本語 🙂", "\x00\x7f\r\n\t"])
def test_unusual_text_is_decoded_exactly(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text


def test_special_tokens_are_in_gemmas_order() -> None:
    assert TOKENIZER.convert_ids_to_tokens([0, 1, 2, 3]) == ["<pad>", "<eos>", "<bos>", "<unk>"]
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id, TOKENIZER.bos_token_id) == (0, 1, 2)


def test_every_word_and_letter_is_one_leading_space_token() -> None:
    ids = [one_token(f" {word}") for word in WORDS]
    assert len(set(ids)) == len(WORDS)
    assert all(TOKENIZER.decode([i]) == f" {word}" for i, word in zip(ids, WORDS, strict=True))
    assert len({one_token(f" {word[0].upper()}") for word in WORDS}) == 26


def test_the_word_is_sixth_from_the_end_of_its_prompt() -> None:
    words = ASKED_WORDS[:50]
    ids = [TOKENIZER.encode(prompt) for prompt in letter_prompts(words)]
    assert len({len(row) for row in ids}) == 1
    assert [row[-6] for row in ids] == [one_token(f" {word}") for word in words]


def test_the_stored_tokenizer_is_reproducible() -> None:
    assert train_tokenizer(seed=0).get_vocab() == TOKENIZER.get_vocab()


def test_windows_hold_the_documents_in_order() -> None:
    bos = TOKENIZER.bos_token_id
    texts = [d.text for d in documents(5, 40)]
    packed = list(windows(iter(texts), TOKENIZER))
    assert all(len(window) == CONTEXT_SIZE and window[0] == bos for window in packed)
    assert all(pair != (bos, bos) for window in packed for pair in pairwise(window))
    stream = [i for text in texts for i in TOKENIZER.encode(text, add_special_tokens=False)]
    stored = [i for window in packed for i in window if i != bos]
    assert stored == stream[: len(stored)]
    assert len(stream) - len(stored) < CONTEXT_SIZE
    separators = sum(window[1:].count(bos) for window in packed)
    assert len(texts) - len(packed) - 1 <= separators <= len(texts) - 1


def test_the_checkpoint_is_gemma_2(model: Gemma2ForCausalLM) -> None:
    config = model.config
    assert type(model) is Gemma2ForCausalLM
    assert config._attn_implementation == "eager"
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (50.0, 30.0)
    assert config.layer_types == ["sliding_attention", "full_attention"] * 2
    assert config.sliding_window < CONTEXT_SIZE
    assert config.tie_word_embeddings
    assert config.vocab_size == len(TOKENIZER)
    assert config.query_pre_attn_scalar == config.head_dim


def test_the_checkpoint_is_small_and_holds_no_pickle() -> None:
    files = [f for f in MODEL_DIR.parent.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert sum(f.stat().st_size for f in files) < 5e6
    assert {f.suffix for f in MODEL_DIR.iterdir()} <= {".json", ".safetensors"}


@torch.inference_mode()
def test_loss_on_held_out_text_is_far_below_any_unigram_model(model: Gemma2ForCausalLM) -> None:
    texts = [d.text for d in documents(11, 1500) if heldout_score(d.text) < 0.1]
    ids = torch.tensor(list(islice(windows(iter(texts), TOKENIZER), 48)))
    targets = ids[:, 1:]
    nats = torch.nn.functional.cross_entropy(model(ids).logits[:, :-1].mT, targets, reduction="none")
    ordinary = targets != TOKENIZER.bos_token_id
    # The entropy of the sample's own counts is a bound that no model without context can beat.
    _, counts = np.unique(targets[ordinary].numpy(), return_counts=True)
    shares = counts / counts.sum()
    entropy = -(shares * np.log(shares)).sum()
    assert 0.5 < nats[ordinary].mean() < entropy / 3
    assert model(ids[:4]).logits.abs().max() <= 30.0


def test_unigram_probabilities_sum_to_one() -> None:
    nats = unigram_nats(TOKENIZER, num_texts=200)
    assert np.exp(-nats).sum() == pytest.approx(1.0)
    assert nats.argmin() == one_token(" the") or TOKENIZER.decode([nats.argmin()]) == "."


@torch.inference_mode()
@pytest.mark.parametrize(("words", "at_least"), [(ASKED_WORDS, 0.9), (SPELLED_ONLY_WORDS, 0.5)])
def test_the_model_knows_first_letters(model: Gemma2ForCausalLM, words: tuple[str, ...], at_least: float) -> None:
    chosen = words[:: len(words) // 100][:100]
    shots = "".join(f"\n {w} has the first letter: {w[0].upper()}" for w in ("pencil", "apple", "wolf"))
    right = 0
    for word in chosen:
        ids = torch.tensor([TOKENIZER.encode(f"{shots}\n {word} has the first letter:")])
        right += model(ids).logits[0, -1].argmax().item() == one_token(f" {word[0].upper()}")
    assert right / len(chosen) > at_least


def test_first_letter_accuracy_of_an_untrained_model_is_chance() -> None:
    assert first_letter_accuracy(new_model(TOKENIZER, seed=3), TOKENIZER, ASKED_WORDS[:64]) < 0.2


def test_training_is_deterministic() -> None:
    texts = [d.text for d in documents(0, 60)]

    def trained() -> Gemma2ForCausalLM:
        model = new_model(TOKENIZER, seed=0)
        for _ in train(model, windows(iter(texts), TOKENIZER), num_steps=2):
            pass
        return model

    first, second = trained().state_dict(), trained().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[n], w) for n, w in new_model(TOKENIZER, seed=0).state_dict().items())
