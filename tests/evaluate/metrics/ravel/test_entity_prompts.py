"""Prompts, the entity's last token and the label's tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from helpers.known_places import IDS
from saepipe.evaluate.metrics.ravel.entities import EntityClass
from saepipe.evaluate.metrics.ravel.entity_prompts import Prompt, make_prompts


def ids(text: str) -> tuple[int, ...]:
    return tuple(IDS[word] for word in text.split())


def test_prompts_by_attribute_template_and_entity(lm) -> None:
    labels = {
        "port e1": {"country": "new land", "language": "ooh"},
        "e2": {"language": "eeh"},
        "e4": {"country": "south"},
    }
    templates = {"country": ("all of %s is in ",), "language": ("%s say", "people of %s speak")}
    prompts = list(make_prompts(EntityClass(labels, templates), lm))
    assert prompts == [
        Prompt(0, 0, ids("<s> all of port e1 is in"), 4, ids("new land"), True),
        Prompt(2, 0, ids("<s> all of e4 is in"), 3, ids("south"), True),
        Prompt(0, 1, ids("<s> port e1 say"), 2, ids("ooh"), True),
        Prompt(1, 1, ids("<s> e2 say"), 1, ids("eeh"), True),
        Prompt(0, 1, ids("<s> people of port e1 speak"), 4, ids("ooh"), True),
        Prompt(1, 1, ids("<s> people of e2 speak"), 3, ids("eeh"), True),
    ]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("%s is in", "e2 is in south"),
        ("%s is in ", "e2 is in south"),
        ('%s "is" in "', 'e2 "is" in "south'),
        ("(%s) in (", "(e2) in (south"),
    ],
)
def test_a_label_follows_a_space_or_an_opening_mark(lm, template, text) -> None:
    asked: list[str] = []

    def characters(texts: list[str], **_: bool) -> dict[str, list[list[int]]]:
        asked.extend(texts)
        return {"input_ids": [[ord(character) for character in text] for text in texts]}

    by_character = replace(lm, tokenizer=characters, chosen_bos_id=0)
    (prompt,) = make_prompts(EntityClass({"e2": {"a": "south"}}, {"a": (template,)}), by_character)
    assert text in asked
    assert prompt.spaced == (" south" in text)
    assert chr(prompt.ids[prompt.position]) == "2"


def test_a_prompt_whose_entity_shares_a_token_with_what_follows_is_left_out(lm) -> None:
    tokenizer = Tokenizer(
        WordLevel({"<s>": 0, "<unk>": 1, "e2": 2, "e2's": 3, "land": 4, "is": 5, "south": 6}, "<unk>")
    )
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")  # type: ignore[no-untyped-call]
    world = EntityClass({"e2": {"a": "south"}}, {"a": ("%s's land is", "%s land is")})
    prompts = list(make_prompts(world, replace(lm, tokenizer=fast)))
    assert prompts == [Prompt(0, 0, (0, 2, 4, 5), 1, (6,), True)]
