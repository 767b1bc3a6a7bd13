"""Prompts as strings, examples by draw, and the activation at the word's own token."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.data.toy import WORDS
from saepipe.evaluate.metrics.absorption.prompts import TEMPLATE, draw_examples, prompt, tokenise, word_activations
from saepipe.evaluate.metrics.absorption.vocabulary import Word, listed, vocabulary
from saepipe.harvest.capture import capture
from saepipe.harvest.hooks import HookPoint
from saepipe.harvest.model import LanguageModel, ModelConfig, load_model

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load_model(ModelConfig(dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def words(lm) -> list[Word]:
    return listed(WORDS, vocabulary(lm.tokenizer))


def test_the_prompt_is_the_references() -> None:
    examples = [Word(" Apple", 0), Word("pen", 1)]
    assert prompt(Word(" zebra", 2), examples) == (
        "\n Apple has the first letter: A\npen has the first letter: P\n zebra has the first letter:"
    )
    assert prompt(Word(" zebra", 2), [Word(" axe", 0)], "Spell {word}:") == "\nSpell  axe: A\nSpell  zebra:"


@pytest.mark.parametrize("forms", [False, True])
def test_examples_are_ten_others(words, forms) -> None:
    found = draw_examples(words[:200], words, "a seed", forms=forms)
    assert all(len(set(examples)) == 10 for examples in found)
    assert all(word not in examples for word, examples in zip(words, found, strict=False))
    assert found == draw_examples(words[:200], words, "a seed", forms=forms)
    assert found != draw_examples(words[:200], words, "another", forms=forms)


def test_another_form_of_the_word_would_give_its_letter_away() -> None:
    pens = [Word(text, token) for token, text in enumerate(("pen", " pen", " Pen", "PEN"))]
    among = pens + [Word(f" word{chr(97 + i)}", 10 + i) for i in range(12)]
    found = draw_examples([pens[0]] * 200, among, "s", forms=False)
    assert all(len(examples) == 10 and not set(examples) & set(pens) for examples in found)
    with_forms = draw_examples([pens[0]] * 200, among, "s", forms=True)
    assert any(set(examples) & set(pens) for examples in with_forms)
    assert all(pens[0] not in examples for examples in with_forms)


def test_few_words_give_fewer_examples() -> None:
    few = [Word(f" {letter}", token) for token, letter in enumerate("abc")]
    assert [len(examples) for examples in draw_examples(few, few, "s", forms=False)] == [2, 2, 2]


@pytest.mark.parametrize(("template", "position"), [(TEMPLATE, -6), ("{word}:", -2), ("{word}", -1)])
def test_the_word_is_found_by_what_follows_it(lm, words, template, position) -> None:
    read = tokenise([prompt(word, words[:2], template) for word in words], lm.tokenizer, lm.bos_id, template)
    assert read.position == position
    assert [ids[position] for ids in read.ids] == [word.token for word in words]
    assert all(ids[0] == lm.bos_id and ids.count(lm.bos_id) == 1 for ids in read.ids)


def test_each_activation_is_that_of_its_word_alone(lm, words) -> None:
    """Prompts of unlike length, three at a time, against each by itself."""
    testbed = SimpleNamespace(
        language_model=lm,
        batch_size=3,
        capture=lambda ids: capture(lm.model, ids, [HookPoint.parse(HOOK)])[HOOK],
    )
    asked, examples = words[:7], [words[20 : 20 + n] for n in (3, 1, 4, 0, 5, 2, 4)]
    found = word_activations(testbed, asked, examples, TEMPLATE, Silent())
    for word, others, x in zip(asked, examples, found, strict=True):
        ids = torch.tensor([[lm.bos_id, *lm.tokenizer.encode(prompt(word, others), add_special_tokens=False)]])
        (place,) = (ids[0] == word.token).nonzero()[-1]
        alone = capture(lm.model, ids, [HookPoint.parse(HOOK)])[HOOK][0, place]
        assert torch.allclose(x, alone, atol=1e-4)


def test_a_word_that_comes_apart_is_refused(lm, words) -> None:
    testbed = SimpleNamespace(language_model=lm, batch_size=3)
    with pytest.raises(ConfigError, match="' xqzv' is not one token"):
        word_activations(testbed, [Word(" xqzv", words[0].token)], [words[:2]], TEMPLATE, Silent())


def test_activations_that_overflow_are_refused(lm, words) -> None:
    def overflowing(ids: torch.Tensor) -> torch.Tensor:
        return torch.full((*ids.shape, lm.d_in), torch.inf)

    testbed = SimpleNamespace(language_model=lm, batch_size=3, capture=overflowing)
    with pytest.raises(ConfigError, match="NaN or Inf"):
        word_activations(testbed, words[:2], [words[2:4]] * 2, TEMPLATE, Silent())
