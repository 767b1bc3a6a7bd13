"""Multiple-choice questions: how they are read, what the prompt is, and which letter a model answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saepipe.data.config.base import Config
from saepipe.data.errors import ConfigError
from saepipe.harvest.config import DatasetConfig
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.text import read_rows, value_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LETTERS = "ABCD"

_DEFAULT_PROMPT = (
    "The following are multiple choice questions (with answers) about {subject}.\n"
    "{question}\nA. {A}\nB. {B}\nC. {C}\nD. {D}"
)


class QuestionsConfig(Config):
    """A set of questions with four choices each."""

    source: str
    """Hub id, or a .jsonl, .csv or .parquet file."""
    subset: str | None = None
    split: str = "test"
    revision: str | None = None
    subject: str
    """Subject of the questions, for the prompt."""
    question: str = "question"
    """Column with the question."""
    choices: str | tuple[str, str, str, str] = "choices"
    """Column that holds a list of four choices, or four columns."""
    answer: str = "answer"
    """Column with the index of the right choice, 0 to 3, or its letter."""

    @property
    def dataset(self) -> DatasetConfig:
        return DatasetConfig(source=self.source, subset=self.subset, split=self.split, revision=self.revision)


@dataclass(frozen=True)
class Question:
    """A question, its four choices, and the index of the right one."""

    text: str
    choices: tuple[str, ...]
    answer: int

    def permuted(self, order: Sequence[int]) -> Question:
        """Returns the question with choice `order[i]` in position i."""
        return Question(self.text, tuple(self.choices[index] for index in order), list(order).index(self.answer))


def read_questions(config: QuestionsConfig, revision: str | None = None) -> list[Question]:
    """Returns all questions, in the order of their dataset.

    Raises:
        ConfigError: if a file, a split or a column does not exist, or a row is not a question with four choices.
        RemoteError: if a hub does not provide the dataset.
    """
    return [_question(config, number, row) for number, row in enumerate(read_rows(config.dataset, revision))]


def _question(config: QuestionsConfig, number: int, row: dict[Any, Any]) -> Question:
    def value(column: str) -> Any:
        return value_of(config.source, row, column)

    columns = config.choices
    choices = value(columns) if isinstance(columns, str) else [value(column) for column in columns]
    answer = str(value(config.answer)).strip()
    index = LETTERS.find(answer) if len(answer) == 1 and answer in LETTERS else "0123".find(answer)
    if isinstance(choices, str) or len(choices) != len(LETTERS) or index < 0 or len(answer) != 1:
        raise ConfigError(
            f"row {number} of {config.source} is not a four-choice question: choices {choices!r}, answer {answer!r}",
            hint="choices: a list of four, or four columns; answer: 0 to 3, or A to D",
        )
    return Question(str(value(config.question)), tuple(str(choice) for choice in choices), index)


def prompt_ids(question: Question, subject: str, template: str | None, lm: LanguageModel) -> list[int]:
    """Returns token ids of the prompt, BOS first; the model's next token is its answer.

    Without a template, it is the question as SAEBench asks it: through the tokenizer's chat template and followed by
    `Answer: (` if there is one, else as plain text that ends in `Answer:`.

    Args:
        question: the question and its choices.
        subject: subject of the question.
        template: text with the slots {subject}, {question}, {A}, {B}, {C} and {D}.
        lm: its tokenizer and chat template are used.
    """
    slots = dict(zip(LETTERS, question.choices, strict=True)) | {"subject": subject, "question": question.text}
    text = (template or _DEFAULT_PROMPT).format(**slots)
    if template is None and lm.tokenizer.chat_template:
        turn = [{"role": "user", "content": text}]
        text = str(lm.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)) + "Answer: ("
    elif template is None:
        text += "\nAnswer:"
    ids = lm.tokenizer.encode(text, add_special_tokens=False)
    return ids if ids[:1] == [lm.bos_id] else [lm.bos_id, *ids]


def check_template(template: str) -> None:
    """Raises ValueError if a prompt template lacks the question or has a slot that nothing fills."""
    if "{question}" not in template:
        raise ValueError("the prompt has no {question}")
    try:
        template.format(**dict.fromkeys((*LETTERS, "subject", "question"), ""))
    except (KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"the prompt has an unknown slot {error}; known: subject, question, A, B, C, D") from error


def letter_ids(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Returns (4, 2) int64: the tokens "A" and " A", "B" and " B", ...; twice the same if one is not a single token.

    Raises:
        ConfigError: if neither is a single token for some letter.
    """

    def forms(letter: str) -> list[int]:
        encoded = [tokenizer.encode(text, add_special_tokens=False) for text in (letter, f" {letter}")]
        single = [ids[0] for ids in encoded if len(ids) == 1]
        if not single:
            raise ConfigError(f"the tokenizer has no token for the letter {letter}, one of the four possible answers")
        return [single[0], single[-1]]

    return torch.tensor([forms(letter) for letter in LETTERS])


def answered_letters(logits: Tensor, letters: Tensor) -> Tensor:
    """Returns the letter with the likeliest token, (batch,) int64, for next-token logits (batch, vocab)."""
    return logits[:, letters.to(logits.device)].amax(dim=2).argmax(dim=1)
