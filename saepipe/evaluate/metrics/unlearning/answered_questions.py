"""Questions that the model itself answers correctly in every order of their choices; found once for all SAEs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from saepipe.data.cache.special_tokens import keep_mask
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.unlearning.questions import (
    LETTERS,
    Question,
    QuestionsConfig,
    answered_letters,
    letter_ids,
    prompt_ids,
    read_questions,
)
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.padded_batches import padded, padded_batches, rows_by_length
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.texts.dataset_source import dataset_key

IDENTITY = tuple(range(len(LETTERS)))


@dataclass(frozen=True)
class PromptBatch:
    """Prompts padded on the right: attention is causal, so no token sees the padding after it."""

    rows: Tensor
    """(batch,) int64: indices of the questions"""
    ids: Tensor
    """(batch, seq) int64"""
    keep: Tensor
    """(batch, seq) bool: ordinary tokens"""
    x: Tensor
    """(batch, seq, d_in) at the hook, 0 in the padding"""
    last: Tensor
    """(batch,) int64: the position whose next token is the answer"""


@dataclass(frozen=True)
class AnsweredQuestions:
    """Questions of one set that the model answers correctly, with their prompts in the original order of choices."""

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

    def batches(self, batch_size: int) -> Iterator[PromptBatch]:
        """Yields prompts in batches of similar length."""
        lengths = self.offsets.diff()
        for rows in rows_by_length(lengths, batch_size):
            spans = [slice(int(self.offsets[row]), int(self.offsets[row + 1])) for row in rows]
            ids, keep, x = (padded([part[span] for span in spans]) for part in (self.ids, self.keep, self.x))
            yield PromptBatch(rows, ids, keep, x, lengths[rows] - 1)


def questions_work(config: QuestionsConfig, num_permutations: int, template: str | None, seed: int) -> Work:
    """Returns the work that `ask_questions` needs."""
    columns = {"question": config.question, "choices": config.choices, "answer": config.answer}
    decisive = {"permutations": num_permutations, "prompt": template, "seed": seed, "subject": config.subject}
    return Work("unlearning_questions", {"dataset": dataset_key(config.dataset), **columns, **decisive})


def ask_questions(testbed: Testbed, config: QuestionsConfig, work: Work, progress: Progress) -> AnsweredQuestions:
    """Returns the questions that the clean model answers correctly in all orders, and x at the hook; an artifact."""

    def make() -> Content:
        return _ask_model(testbed, config, work.key, progress)

    content = testbed.kept_work.get(work.kind, work.key, make)
    return AnsweredQuestions(**content.tensors, num_asked=content.info["num_asked"])


def choice_orders(num_permutations: int, seed: int) -> list[tuple[int, ...]]:
    """Returns the original order of four choices, then a sample of the other 23, or all of them."""
    permuted = [order for order in permutations(IDENTITY) if order != IDENTITY]
    return [IDENTITY, *random.Random(seed).sample(permuted, num_permutations - 1)]


def _ask_model(testbed: Testbed, config: QuestionsConfig, key: Mapping[str, Any], progress: Progress) -> Content:
    """Asks the model order by order; a question once answered wrongly is not asked again."""
    lm = testbed.language_model
    letters = letter_ids(lm.tokenizer)
    questions = read_questions(config, key["dataset"].get("revision"))
    remaining = list(range(len(questions)))

    def prompts(order: Sequence[int]) -> list[Tensor]:
        permuted = [questions[number].permuted(order) for number in remaining]
        return [torch.tensor(prompt_ids(question, config.subject, key["prompt"], lm)) for question in permuted]

    orders = choice_orders(key["permutations"], key["seed"])
    progress.start(f"unlearning: questions about {config.subject}", len(questions) * len(orders), "prompts")
    try:
        for order in orders:
            right = torch.tensor([questions[number].permuted(order).answer for number in remaining])
            correct = _answers(testbed, prompts(order), letters) == right
            progress.advance(len(questions), left=len(remaining))
            remaining = [number for number, kept in zip(remaining, correct.tolist(), strict=True) if kept]
    finally:
        progress.finish()
    return _content(testbed, prompts(IDENTITY), [questions[n] for n in remaining], remaining, letters, len(questions))


def _answers(testbed: Testbed, prompts: Sequence[Tensor], letters: Tensor) -> Tensor:
    """Returns the letter that the clean model answers to each prompt, (num_prompts,) int64."""
    answers = torch.empty(len(prompts), dtype=torch.int64)
    for rows, ids, last in padded_batches(prompts, testbed.batch_size):
        testbed.passes.full += len(rows)
        logits = testbed.language_model.model(input_ids=ids.to(testbed.device), use_cache=False).logits
        answers[rows] = answered_letters(logits[torch.arange(len(rows)), last], letters).cpu()
    return answers


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
    x = torch.empty(len(ids), testbed.d_in, dtype=lm.model.dtype)
    for rows, batch, last in padded_batches(prompts, testbed.batch_size):
        captured = testbed.capture(batch).cpu()
        for row, activations, length in zip(rows.tolist(), captured, (last + 1).tolist(), strict=True):
            x[offsets[row] : offsets[row + 1]] = activations[:length]
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
