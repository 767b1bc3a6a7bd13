"""Reading questions, prompting the model with them, and reading its answers."""

from __future__ import annotations

import copy
import json
from itertools import permutations

import pytest
import torch

from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.metrics.unlearning.answered_questions import ask_questions, choice_orders, questions_work
from saepipe.evaluate.metrics.unlearning.questions import (
    Question,
    QuestionsConfig,
    answered_letters,
    letter_ids,
    prompt_ids,
    read_questions,
)
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.model import LanguageModel

HOOK = "blocks.1.hook_resid_post"
CAPITAL = Question("What is the capital of France?", ("Rome", "Paris", "Berlin", "Madrid"), 1)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + "
    "message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def test_four_columns_and_a_list_give_the_same_questions(tmp_path) -> None:
    (tmp_path / "q.csv").write_text('q,w,x,y,z,right\n"Which, then?",1,2,3,4,C\nAnd now?,5,6,7,8,0\n')
    rows = [
        {"question": "Which, then?", "choices": ["1", "2", "3", "4"], "answer": 2},
        {"question": "And now?", "choices": ["5", "6", "7", "8"], "answer": 0},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = {"question": "q", "choices": ("w", "x", "y", "z"), "answer": "right"}
    from_csv = read_questions(QuestionsConfig(source=str(tmp_path / "q.csv"), subject="numbers", **columns))
    from_jsonl = read_questions(QuestionsConfig(source=str(tmp_path / "q.jsonl"), subject="numbers"))
    expected = [Question("Which, then?", ("1", "2", "3", "4"), 2), Question("And now?", ("5", "6", "7", "8"), 0)]
    assert from_csv == from_jsonl == expected


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?", "choices": ["1", "2", "3"], "answer": 0}, "is not a four-choice question"),
        ({"question": "?", "choices": ["1", "2", "3", "4"], "answer": 4}, "answer '4'"),
        ({"question": "?", "choices": ["1", "2", "3", "4"], "answer": "AB"}, "answer 'AB'"),
        ({"question": "?", "choices": ["1", "2", "3", "4"], "answr": 1}, "no column 'answer'; did you mean 'answr'"),
    ],
)
def test_invalid_rows_are_errors(tmp_path, row, message) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    with pytest.raises(ConfigError, match=message):
        read_questions(QuestionsConfig(source=str(tmp_path / "q.jsonl"), subject="numbers"))


def test_permuted_questions_keep_the_right_choice() -> None:
    for order in permutations(range(4)):
        permuted = CAPITAL.permuted(order)
        assert permuted.choices[permuted.answer] == "Paris"
        assert permuted.choices == tuple(CAPITAL.choices[index] for index in order)


def test_choice_orders_begin_with_the_original() -> None:
    assert sorted(choice_orders(24, 0)) == sorted(permutations(range(4)))
    assert choice_orders(24, 0)[0] == (0, 1, 2, 3)
    assert choice_orders(1, 0) == [(0, 1, 2, 3)]
    assert choice_orders(5, 3) == choice_orders(5, 3) != choice_orders(5, 4)
    assert len(set(choice_orders(5, 3))) == 5


def test_prompts(lm) -> None:
    text = (
        "The following are multiple choice questions (with answers) about geography.\n"
        "What is the capital of France?\nA. Rome\nB. Paris\nC. Berlin\nD. Madrid"
    )

    def encoded(string: str) -> list[int]:
        return [lm.bos_id, *lm.tokenizer.encode(string, add_special_tokens=False)]

    assert prompt_ids(CAPITAL, "geography", None, lm) == encoded(f"{text}\nAnswer:")
    template = "{subject}: {question} {D}, {A}?"
    assert prompt_ids(CAPITAL, "geography", template, lm) == encoded(
        "geography: What is the capital of France? Madrid, Rome?"
    )
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = GEMMA
    chat = LanguageModel(lm.model, tokenizer, lm.config)
    expected = f"<start_of_turn>user\n{text}<end_of_turn>\n<start_of_turn>model\nAnswer: ("
    assert prompt_ids(CAPITAL, "geography", None, chat) == encoded(expected)


def test_the_likelier_token_of_a_letter_counts(lm) -> None:
    letters = letter_ids(lm.tokenizer)
    expected = [[lm.tokenizer.convert_tokens_to_ids(token) for token in (letter, f"Ġ{letter}")] for letter in "ABCD"]
    assert letters.tolist() == expected
    logits = torch.zeros(5, len(lm.tokenizer))
    for row, (letter, form) in enumerate([(0, 1), (1, 0), (2, 1), (3, 0), (3, 1)]):
        logits[row, letters[letter, form]] = 1.0
        logits[row, letters[(letter + 1) % 4, 1 - form]] = 0.5
    logits[:, 0] = 9.0  # the likeliest token is no letter
    assert answered_letters(logits, letters).tolist() == [0, 1, 2, 3, 3]


@pytest.fixture
def mixed(tmp_path) -> QuestionsConfig:
    """Questions of uneven length; the model names the first letter of the last word if it knows it."""
    words = ["apple", "the long road to the bridge", "copper", "a dog", "b", "cats and boats", "very", "an old castle"]
    rows = [{"question": word, "choices": [*"ABCD"], "answer": index % 4} for index, word in enumerate(words)]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return QuestionsConfig(source=str(tmp_path / "q.jsonl"), subject="letters")


PROMPT = "\n {question} or {A} has the first letter:"


@pytest.mark.parametrize("num_permutations", [1, 3])
def test_the_questions_kept_are_those_the_model_answers(testbed, lm, mixed, num_permutations) -> None:
    work = questions_work(mixed, num_permutations, PROMPT, 0)
    answered = ask_questions(testbed, mixed, work, Silent())
    tokens = [lm.tokenizer.convert_tokens_to_ids(f"Ġ{letter}") for letter in "ABCD"]
    plain = [lm.tokenizer.convert_tokens_to_ids(letter) for letter in "ABCD"]
    expected = []
    for number, question in enumerate(read_questions(mixed)):
        right = 0
        for order in choice_orders(num_permutations, 0):
            choices = [question.choices[index] for index in order]
            text = f"<bos>\n {question.text} or {choices[0]} has the first letter:"
            logits = lm.model(torch.tensor([lm.tokenizer.encode(text, add_special_tokens=False)])).logits[0, -1]
            likeliest = max(range(4), key=lambda i, row=logits: max(row[tokens[i]], row[plain[i]]))
            right += choices[likeliest] == question.choices[question.answer]
        expected += [number] if right == num_permutations else []
    assert answered.numbers.tolist() == expected
    assert answered.num_asked == 8
    if num_permutations == 1:
        assert 0 < len(answered) < 8


def test_upper_layers_on_padded_prompts_equal_the_whole_model(testbed, lm, mixed) -> None:
    work = questions_work(mixed, 1, "\n {question} has the first letter:", 0)
    answered = ask_questions(testbed, mixed, work, Silent())
    lengths = answered.offsets.diff()
    assert lengths.min() < lengths.max()
    rows = []
    with testbed.upper_layers() as upper_layers:
        batches = [
            (prompts, upper_layers(prompts.ids, prompts.x)[torch.arange(len(prompts.rows)), prompts.last])
            for prompts in answered.batches(3)
        ]
    for prompts, logits in batches:
        for row, upper_logits in zip(prompts.rows.tolist(), logits, strict=True):
            span = slice(int(answered.offsets[row]), int(answered.offsets[row + 1]))
            alone = answered.ids[span][None]
            assert torch.allclose(lm.model(alone).logits[0, -1], upper_logits, atol=1e-5)
            x = capture(lm.model, alone, [HookPoint.parse(HOOK)])[HOOK][0]
            assert torch.allclose(x, answered.x[span], atol=1e-5)
            rows.append(row)
    assert sorted(rows) == list(range(len(answered)))
