"""Prompts that ask for a word's first letter, and the model's activation at the word in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.absorption.vocabulary import Word
from saepipe.evaluate.model.testbed import Testbed

TEMPLATE = "{word} has the first letter:"
NUM_EXAMPLES = 10


@dataclass(frozen=True)
class Tokenised:
    """Prompts as the model reads them."""

    ids: list[list[int]]
    """a prompt each, of any length, beginning with BOS"""
    position: int
    """of the word in each, from the end"""


def prompt(word: Word, examples: Sequence[Word], template: str = TEMPLATE) -> str:
    r"""A line for each example with its letter, then the word's without. Every line follows a line break, the first
    too: else its word would be the only one to begin a text, where some tokenizers add a space."""
    lines = [f"{template.format(word=example.text)} {example.letter.upper()}" for example in examples]
    return "".join(f"\n{line}" for line in [*lines, template.format(word=word.text)])


def draw_examples(words: Sequence[Word], among: Sequence[Word], seed: str, *, forms: bool) -> list[list[Word]]:
    """For each word ten others of `among` in random order, or as many as there are.

    Args:
        words: that prompts ask for.
        among: where examples come from.
        seed: of the draw.
        forms: whether another form of the word (` Pen` for ` pen`) may be an example, which gives its letter away.
    """
    random = Random(seed)

    def same(word: Word) -> str:
        return word.text if forms else word.stem

    spare = max(
        Counter(same(word) for word in among).values()
    )  # so that ten are left when the word's own are taken out
    num_drawn = min(NUM_EXAMPLES + spare, len(among))
    return [
        [example for example in random.sample(among, num_drawn) if same(example) != same(word)][:NUM_EXAMPLES]
        for word in words
    ]


def single_tokens(
    words: Sequence[Word], tokenizer: PreTrainedTokenizerBase, bos_id: int, template: str = TEMPLATE
) -> list[Word]:
    """Those that are their own token inside a prompt; others may come apart there."""
    example = [words[0]] if words else []
    found = tokenise([prompt(word, example, template) for word in words], tokenizer, bos_id, template)
    return [word for word, ids in zip(words, found.ids, strict=True) if ids[found.position] == word.token]


def tokenise(
    prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, bos_id: int, template: str = TEMPLATE
) -> Tokenised:
    """Ids, and where the word stands: before what two prompts with different words end alike in."""
    one, other = tokenizer([f"\n{template.format(word=word)}" for word in (" a", " b")], add_special_tokens=False)[
        "input_ids"
    ]
    tail = 0
    while one[-1 - tail] == other[-1 - tail]:
        tail += 1
    encoded = tokenizer(list(prompts), add_special_tokens=False)["input_ids"] if prompts else []
    return Tokenised([[bos_id, *ids] for ids in encoded], -1 - tail)


def word_activations(
    testbed: Testbed, words: Sequence[Word], examples: Sequence[Sequence[Word]], template: str, progress: Progress
) -> Tensor:
    """The model's activation at each word's own token in its prompt.

    Prompts may differ in length: those of like length go together, padded on the right.

    Returns:
        (num_words, d_in) in the model's dtype, on the CPU.

    Raises:
        ConfigError: if a word is not one token in its prompt, or an activation is not finite.
    """
    lm = testbed.language_model
    texts = [prompt(word, others, template) for word, others in zip(words, examples, strict=True)]
    read = tokenise(texts, lm.tokenizer, lm.bos_id, template)
    for word, ids in zip(words, read.ids, strict=True):
        if ids[read.position] != word.token:
            raise ConfigError(f"{word.text!r} is not one token in its prompt", hint="another absorption.template")
    order = sorted(range(len(words)), key=lambda index: len(read.ids[index]))
    x = torch.empty(len(words), lm.d_in, dtype=lm.model.dtype)
    progress.start("words through the model", len(words), "prompts")
    try:
        for start in range(0, len(order), testbed.batch_size):
            batch = order[start : start + testbed.batch_size]
            rows = [read.ids[index] for index in batch]
            longest = len(rows[-1])
            padded = torch.tensor([row + [lm.bos_id] * (longest - len(row)) for row in rows])
            at = torch.tensor([len(row) + read.position for row in rows])
            captured = testbed.capture(padded)
            x[batch] = captured[torch.arange(len(rows)), at.to(captured.device)].cpu()
            progress.advance(len(batch))
    finally:
        progress.finish()
    if not x.isfinite().all():
        raise ConfigError(f"at some words the activations are NaN or Inf in {x.dtype}", hint="dtype: bfloat16")
    return x
