"""Prompts as strings, sampled examples, and the activation at the word's own token."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.data.toy import WORDS
from saepipe.evaluate.metrics.absorption.prompts import (
    TEMPLATE,
    make_prompt,
    sample_examples,
    tokenise,
    word_activations,
)
from saepipe.evaluate.metrics.absorption.vocabulary import Word, lookup, vocabulary
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.model_config import ModelConfig

pytestmark = pytest.mark.quick

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return load_model(ModelConfig(dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def words(lm) -> list[Word]:
    return lookup(WORDS, vocabulary(lm.tokenizer))


def test_the_prompt_equals_the_references() -> None:
    examples = [Word(" Apple", 0), Word("pen", 1)]
    assert make_prompt(Word(" zebra", 2), examples) == (
        "\n Apple has the first letter: A\npen has the first letter: P\n zebra has the first letter:"
    )
    assert make_prompt(Word(" zebra", 2), [Word(" axe", 0)], "Spell {word}:") == "\nSpell  axe: A\nSpell  zebra:"


@pytest.mark.parametrize("forms", [False, True])
def test_examples_are_ten_others(words, forms) -> None:
    examples = sample_examples(words[:200], words, "a seed", allow_forms=forms)
    assert all(len(set(sampled)) == 10 for sampled in examples)
    assert all(word not in sampled for word, sampled in zip(words, examples, strict=False))
    assert examples == sample_examples(words[:200], words, "a seed", allow_forms=forms)
    assert examples != sample_examples(words[:200], words, "another", allow_forms=forms)


def test_other_forms_of_the_word_are_examples_only_if_allowed() -> None:
    pens = [Word(text, token) for token, text in enumerate(("pen", " pen", " Pen", "PEN"))]
    pool = pens + [Word(f" word{chr(97 + i)}", 10 + i) for i in range(12)]
    without_forms = sample_examples([pens[0]] * 200, pool, "s", allow_forms=False)
    assert all(len(examples) == 10 and not set(examples) & set(pens) for examples in without_forms)
    with_forms = sample_examples([pens[0]] * 200, pool, "s", allow_forms=True)
    assert any(set(examples) & set(pens) for examples in with_forms)
    assert all(pens[0] not in examples for examples in with_forms)


def test_few_words_give_fewer_examples() -> None:
    few = [Word(f" {letter}", token) for token, letter in enumerate("abc")]
    assert [len(examples) for examples in sample_examples(few, few, "s", allow_forms=False)] == [2, 2, 2]


@pytest.mark.parametrize(("template", "position"), [(TEMPLATE, -6), ("{word}:", -2), ("{word}", -1)])
def test_the_words_position_is_found_from_the_tokens_after_it(lm, words, template, position) -> None:
    prompts = tokenise([make_prompt(word, words[:2], template) for word in words], lm.tokenizer, lm.bos_id, template)
    assert prompts.position == position
    assert [ids[position] for ids in prompts.ids] == [word.token for word in words]
    assert all(ids[0] == lm.bos_id and ids.count(lm.bos_id) == 1 for ids in prompts.ids)


def test_batching_does_not_change_activations(lm, words) -> None:
    """Prompts of different lengths, three per batch, give the same activations as each prompt alone."""
    testbed = SimpleNamespace(
        language_model=lm,
        row_width=lm.d_in,
        batch_size=3,
        capture=lambda ids: capture(lm.model, ids, [HookPoint.parse(HOOK)])[HOOK],
    )
    targets, examples = words[:7], [words[20 : 20 + n] for n in (3, 1, 4, 0, 5, 2, 4)]
    activations = word_activations(testbed, targets, examples, TEMPLATE, Silent())
    for word, sampled, x in zip(targets, examples, activations, strict=True):
        ids = torch.tensor([[lm.bos_id, *lm.tokenizer.encode(make_prompt(word, sampled), add_special_tokens=False)]])
        (position,) = (ids[0] == word.token).nonzero()[-1]
        alone = capture(lm.model, ids, [HookPoint.parse(HOOK)])[HOOK][0, position]
        assert torch.allclose(x, alone, atol=1e-4)


def test_a_word_that_is_split_into_tokens_is_refused(lm, words) -> None:
    testbed = SimpleNamespace(language_model=lm, row_width=lm.d_in, batch_size=3)
    with pytest.raises(ConfigError, match="' xqzv' is not a single token"):
        word_activations(testbed, [Word(" xqzv", words[0].token)], [words[:2]], TEMPLATE, Silent())


def test_activations_that_overflow_are_refused(lm, words) -> None:
    def overflowing(ids: torch.Tensor) -> torch.Tensor:
        return torch.full((*ids.shape, lm.d_in), torch.inf)

    testbed = SimpleNamespace(language_model=lm, row_width=lm.d_in, batch_size=3, capture=overflowing)
    with pytest.raises(ConfigError, match="NaN or Inf"):
        word_activations(testbed, words[:2], [words[2:4]] * 2, TEMPLATE, Silent())
