"""Questions that the model itself answers correctly, however their choices are ordered; made once for all SAEs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from saepipe.data.cache.tokens import keep_mask
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.unlearning.questions import (
    LETTERS,
    Question,
    QuestionsConfig,
    chosen,
    letter_ids,
    prompt_ids,
    read_questions,
)
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.texts.dataset_source import described

IDENTITY = tuple(range(len(LETTERS)))


@dataclass(frozen=True)
class Prompts:
    """Some prompts, padded on the right: attention is causal, so no token sees the padding behind it."""

    rows: Tensor
    """(batch,) int64: which questions"""
    ids: Tensor
    """(batch, seq) int64"""
    keep: Tensor
    """(batch, seq) bool: ordinary tokens"""
    x: Tensor
    """(batch, seq, d_in) at the hook, 0 in the padding"""
    last: Tensor
    """(batch,) int64: the position whose next token is the answer"""


@dataclass(frozen=True)
class Asked:
    """The questions of one set that the model answers correctly, asked in the original order of their choices."""

    ids: Tensor
    """(num_tokens,) int64: prompt after prompt"""
    keep: Tensor
    """(num_tokens,) bool: ordinary tokens"""
    x: Tensor
    """(num_tokens, d_in) at the hook, in the model's dtype"""
    offsets: Tensor
    """(num_questions + 1,) int64: prompt i is ids[offsets[i]:offsets[i + 1]]"""
    answers: Tensor
    """(num_questions,) int64: the right letter"""
    numbers: Tensor
    """(num_questions,) int64: the question's number in its dataset"""
    letters: Tensor
    """(4, 2) int64: the tokens that count as each letter"""
    num_asked: int
    """Questions in the dataset."""

    def __len__(self) -> int:
        return len(self.answers)

    def batches(self, batch_size: int) -> Iterator[Prompts]:
        """Prompts of like length together."""
        lengths = self.offsets.diff()
        for rows in _like_length(lengths, batch_size):
            spans = [slice(int(self.offsets[row]), int(self.offsets[row + 1])) for row in rows]
            ids, keep, x = (_padded([part[span] for span in spans]) for part in (self.ids, self.keep, self.x))
            yield Prompts(rows, ids, keep, x, lengths[rows] - 1)


def asked_work(config: QuestionsConfig, num_permutations: int, template: str | None, seed: int) -> Work:
    """What `asked` will ask for."""
    columns = {"question": config.question, "choices": config.choices, "answer": config.answer}
    decisive = {"permutations": num_permutations, "prompt": template, "seed": seed, "subject": config.subject}
    return Work("unlearning_questions", {"dataset": described(config.dataset), **columns, **decisive})


def asked(testbed: Testbed, config: QuestionsConfig, work: Work, progress: Progress) -> Asked:
    """The questions that the clean model answers correctly under all permutations, and x at the hook; an artifact."""

    def make() -> Content:
        return _ask(testbed, config, work.key, progress)

    content = testbed.artifacts.get(work.kind, work.key, make)
    return Asked(**content.tensors, num_asked=content.info["num_asked"])


def orders(num_permutations: int, seed: int) -> list[tuple[int, ...]]:
    """The original order of four choices first, then others; all 24, or a draw of them."""
    others = [order for order in permutations(IDENTITY) if order != IDENTITY]
    return [IDENTITY, *random.Random(seed).sample(others, num_permutations - 1)]


def _ask(testbed: Testbed, config: QuestionsConfig, key: Mapping[str, Any], progress: Progress) -> Content:
    """A question that was once answered wrongly is not asked again."""
    lm = testbed.language_model
    letters = letter_ids(lm.tokenizer)
    questions = read_questions(config, key["dataset"].get("revision"))
    left = list(range(len(questions)))

    def prompts(order: Sequence[int]) -> list[Tensor]:
        asked_now = [questions[number].permuted(order) for number in left]
        return [torch.tensor(prompt_ids(one, config.subject, key["prompt"], lm)) for one in asked_now]

    tried = orders(key["permutations"], key["seed"])
    progress.start(f"unlearning: questions about {config.subject}", len(questions) * len(tried), "prompts")
    try:
        for order in tried:
            right = torch.tensor([questions[number].permuted(order).answer for number in left])
            correct = _answers(testbed, prompts(order), letters) == right
            progress.advance(len(questions), left=len(left))
            left = [number for number, kept in zip(left, correct.tolist(), strict=True) if kept]
    finally:
        progress.finish()
    return _content(testbed, prompts(IDENTITY), [questions[number] for number in left], left, letters, len(questions))


def _answers(testbed: Testbed, prompts: Sequence[Tensor], letters: Tensor) -> Tensor:
    """(num_prompts,) int64: the letter that the clean model gives to each."""
    found = torch.empty(len(prompts), dtype=torch.int64)
    for rows, ids, last in _by_length(prompts, testbed.batch_size):
        testbed.passes.full += len(rows)
        logits = testbed.language_model.model(input_ids=ids.to(testbed.device), use_cache=False).logits
        found[rows] = chosen(logits[torch.arange(len(rows)), last], letters).cpu()
    return found


def _content(
    testbed: Testbed,
    prompts: Sequence[Tensor],
    questions: Sequence[Question],
    numbers: Sequence[int],
    letters: Tensor,
    num_asked: int,
) -> Content:
    lm = testbed.language_model
    lengths = torch.tensor([0, *(len(ids) for ids in prompts)])
    offsets = lengths.cumsum(0)
    ids = torch.cat([torch.empty(0, dtype=torch.int64), *prompts])
    x = torch.empty(len(ids), lm.d_in, dtype=lm.model.dtype)
    for rows, batch, last in _by_length(prompts, testbed.batch_size):
        captured = testbed.capture(batch).cpu()
        for row, found, length in zip(rows.tolist(), captured, (last + 1).tolist(), strict=True):
            x[offsets[row] : offsets[row + 1]] = found[:length]
    tensors = {
        "ids": ids,
        "keep": torch.from_numpy(keep_mask(ids.numpy(), lm.special_ids)),
        "x": x,
        "offsets": offsets,
        "answers": torch.tensor([question.answer for question in questions], dtype=torch.int64),
        "numbers": torch.tensor(numbers, dtype=torch.int64),
        "letters": letters,
    }
    return Content(tensors, {"num_asked": num_asked})


def _by_length(prompts: Sequence[Tensor], batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of prompts of like length: which (batch,), ids (batch, seq) padded on the right, last token (batch,)."""
    lengths = torch.tensor([len(ids) for ids in prompts], dtype=torch.int64)
    for rows in _like_length(lengths, batch_size):
        yield rows, _padded([prompts[row] for row in rows]), lengths[rows] - 1


def _like_length(lengths: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Indices of prompts, the shortest first, `batch_size` at a time."""
    if len(lengths):
        yield from torch.split(lengths.argsort(stable=True), batch_size)


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """Zeros (token 0, a vector of zeros, False) where a row is shorter than the longest."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
