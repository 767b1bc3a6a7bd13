"""Prompts that ask for a word's first letter, and the model's activations at the word in each prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.absorption.vocabulary import Word
from saepipe.evaluate.model.testbed import Testbed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = "{word} has the first letter:"
NUM_EXAMPLES = 10


class NotMeasurable(Exception):  # noqa: N818 - says what absorption is
    """The model cannot be asked for first letters, because of the reason given; no SAE is at fault."""


@dataclass(frozen=True)
class TokenisedPrompts:
    """Prompts as token ids."""

    ids: list[list[int]]
    """one list per prompt, of any length, beginning with BOS"""
    position: int
    """index of the word's token in every prompt, counted from the end (negative)"""


def make_prompt(word: Word, examples: Sequence[Word], template: str = TEMPLATE) -> str:
    r"""Returns one line per example with its letter, then the word's line without. Every line follows a line break,
    including the first: otherwise its word alone would begin a text, where some tokenizers add a space."""
    lines = [f"{template.format(word=example.text)} {example.letter.upper()}" for example in examples]
    return "".join(f"\n{line}" for line in [*lines, template.format(word=word.text)])


def sample_examples(words: Sequence[Word], pool: Sequence[Word], seed: str, *, allow_forms: bool) -> list[list[Word]]:
    """Samples ten other words of `pool` per word, in random order, or as many as there are.

    Args:
        words: the words that the prompts ask for.
        pool: words to sample examples from.
        seed: seed of the sampling.
        allow_forms: whether another form of the word (` Pen` for ` pen`), which reveals its letter, may be an example.
    """
    random = Random(seed)

    def key(word: Word) -> str:
        return word.text if allow_forms else word.stem

    # Enough to leave ten after the word's own forms are removed.
    num_sampled = min(NUM_EXAMPLES + max(Counter(key(word) for word in pool).values()), len(pool))
    return [
        [example for example in random.sample(pool, num_sampled) if key(example) != key(word)][:NUM_EXAMPLES]
        for word in words
    ]


def single_tokens(
    words: Sequence[Word], tokenizer: PreTrainedTokenizerBase, bos_id: int, template: str = TEMPLATE
) -> list[Word]:
    """Returns the words that stay a single token inside a prompt; a tokenizer may split others there."""
    example = [words[0]] if words else []
    prompts = tokenise([make_prompt(word, example, template) for word in words], tokenizer, bos_id, template)
    return [word for word, ids in zip(words, prompts.ids, strict=True) if ids[prompts.position] == word.token]


def tokenise(
    prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, bos_id: int, template: str = TEMPLATE
) -> TokenisedPrompts:
    """Returns token ids and the word's position, which is just before the tokens that all prompts have at the end.

    Raises:
        NotMeasurable: if the tokenizer gives two words the same tokens, so that no position is the word's.
    """
    lines = [f"\n{template.format(word=word)}" for word in (" a", " b")]
    first, second = tokenizer(lines, add_special_tokens=False)["input_ids"]
    shorter = min(len(first), len(second))
    tail = next((n for n in range(shorter) if first[-1 - n] != second[-1 - n]), None)
    if tail is None:
        raise NotMeasurable("the tokenizer gives ' a' and ' b' the same tokens: it does not spell Latin letters")
    encoded = tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
    return TokenisedPrompts([[bos_id, *ids] for ids in encoded], -1 - tail)


def word_activations(
    testbed: Testbed, words: Sequence[Word], examples: Sequence[Sequence[Word]], template: str, progress: Progress
) -> Tensor:
    """Returns the model's activation at each word's own token in its prompt.

    Prompts may differ in length: prompts of similar length share a batch, padded on the right.

    Returns:
        (num_words, row_width of the testbed) in the model's dtype, on the CPU.

    Raises:
        ConfigError: if a word is not a single token in its prompt, or an activation is not finite.
    """
    lm = testbed.language_model
    texts = [make_prompt(word, sampled, template) for word, sampled in zip(words, examples, strict=True)]
    prompts = tokenise(texts, lm.tokenizer, lm.bos_id, template)
    for word, ids in zip(words, prompts.ids, strict=True):
        if ids[prompts.position] != word.token:
            raise ConfigError(f"{word.text!r} is not a single token in its prompt", hint="change absorption.template")
    by_length = sorted(range(len(words)), key=lambda index: len(prompts.ids[index]))
    x = torch.empty(len(words), testbed.row_width, dtype=lm.model.dtype)
    progress.start("words through the model", len(words), "prompts")
    try:
        for start in range(0, len(by_length), testbed.batch_size):
            batch = by_length[start : start + testbed.batch_size]
            rows = [prompts.ids[index] for index in batch]
            longest = len(rows[-1])
            padded = torch.tensor([row + [lm.bos_id] * (longest - len(row)) for row in rows])
            positions = torch.tensor([len(row) + prompts.position for row in rows])
            captured = testbed.capture(padded)
            x[batch] = captured[torch.arange(len(rows)), positions.to(captured.device)].cpu()
            progress.advance(len(batch))
    finally:
        progress.finish()
    if not x.isfinite().all():
        raise ConfigError(f"activations at some words are NaN or Inf in {x.dtype}", hint="set dtype: bfloat16")
    return x
