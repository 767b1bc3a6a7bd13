"""Prompts that ask a model for an attribute of an entity, as token ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from saepipe.evaluate.metrics.ravel.entities import SLOT, EntityClass
from saepipe.harvest.model import LanguageModel

_OPENS_A_LABEL = "\"'`([{<\n"
"""Characters that a label follows without a space."""


@dataclass(frozen=True)
class Prompt:
    """A question about an attribute of an entity, with the right answer."""

    entity: int
    """number of the entity in its class"""
    attribute: int
    """number of the attribute in the config"""
    ids: tuple[int, ...]
    """BOS first, up to the answer"""
    position: int
    """index of the entity's last token"""
    label: tuple[int, ...]
    """the answer's tokens"""
    spaced: bool
    """whether the answer follows a space, on which its tokens depend"""


def make_prompts(entity_class: EntityClass, lm: LanguageModel) -> Iterator[Prompt]:
    """Yields each template with each entity that has a label for it, by attribute, template, entity.

    Left out is a prompt in which a token spans the end of the entity and what follows, or the end of the prompt and
    the label, so that it is not clear which token is the entity's last, or the label's first.
    """
    for attribute, (name, templates) in enumerate(entity_class.templates.items()):
        labels = {
            (number, entity): by_attribute[name]
            for number, (entity, by_attribute) in enumerate(entity_class.labels.items())
            if name in by_attribute
        }
        for template in templates:
            yield from _of_template(attribute, template, labels, lm)


def _of_template(
    attribute: int, template: str, labels: Mapping[tuple[int, str], str], lm: LanguageModel
) -> Iterator[Prompt]:
    template = template.rstrip(" ")
    before, after = template.split(SLOT)
    heads = [before + entity for _, entity in labels]
    texts = [head + after for head in heads]
    spaced = template[-1] not in _OPENS_A_LABEL
    whole = [text + " " * spaced + label for text, label in zip(texts, labels.values(), strict=True)]
    rows = zip(labels, *(_encode(part, lm) for part in (heads, texts, whole)), strict=True)
    for (number, _), head, prompt, full in rows:
        label = full[len(prompt) :]
        if head and label and prompt[: len(head)] == head and full[: len(prompt)] == prompt:
            yield Prompt(number, attribute, (lm.bos_id, *prompt), len(head), tuple(label), spaced)


def _encode(texts: Sequence[str], lm: LanguageModel) -> list[list[int]]:
    return lm.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
