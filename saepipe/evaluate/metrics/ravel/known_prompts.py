"""Prompts that the clean model answers correctly, found once for all SAEs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.ravel.entities import EntityClassConfig, read_entity_class
from saepipe.evaluate.metrics.ravel.entity_prompts import Prompt, make_prompts
from saepipe.evaluate.metrics.ravel.teacher_forcing import continues, forced, labels_for
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.padded_batches import padded_batches
from saepipe.evaluate.model.testbed import Testbed

_VERSION = 1
"""Version of the stored content."""


@dataclass(frozen=True)
class KnownPrompts:
    """The prompts of one class of entities that the model answers correctly."""

    prompts: list[Prompt]
    num_entities: int
    """entities in the data"""
    num_asked: list[int]
    """prompts asked, by attribute"""

    def num_right(self, attribute: int) -> int:
        return sum(prompt.attribute == attribute for prompt in self.prompts)

    def accuracy(self, attribute: int) -> float:
        """Returns the share of the attribute's prompts that are answered correctly; 0 if none was asked."""
        return self.num_right(attribute) / max(1, self.num_asked[attribute])


def known_prompts_work(config: EntityClassConfig) -> Work:
    """Returns the work that `find_known_prompts` needs; raises as `EntityClassConfig.key`."""
    key = config.key()
    del key["name"]
    return Work("ravel_prompts", key | {"version": _VERSION})


def find_known_prompts(testbed: Testbed, config: EntityClassConfig, work: Work, progress: Progress) -> KnownPrompts:
    """Returns the prompts that the clean model continues by the whole label under greedy decoding; an artifact."""

    def make() -> Content:
        return _ask_model(testbed, config, work.key, progress)

    content = testbed.kept_work.get(work.kind, work.key, make)
    columns = content.tensors
    parts = zip(*(columns[name].tolist() for name in ("entities", "attributes", "positions", "spaced")), strict=True)
    texts = zip(_split(columns, "ids"), _split(columns, "labels"), strict=True)
    prompts = [
        Prompt(entity, attribute, ids, position, label, spaced)
        for (entity, attribute, position, spaced), (ids, label) in zip(parts, texts, strict=True)
    ]
    return KnownPrompts(prompts, content.info["num_entities"], content.info["num_asked"])


def _ask_model(testbed: Testbed, config: EntityClassConfig, key: Mapping[str, Any], progress: Progress) -> Content:
    entity_class = read_entity_class(config, key)
    prompts = list(make_prompts(entity_class, testbed.language_model))
    progress.start(f"ravel: what the model knows of each {config.name}", len(prompts), "prompts")
    try:
        right = _are_right(testbed, prompts, progress).tolist()
    finally:
        progress.finish()
    known = [prompt for prompt, is_right in zip(prompts, right, strict=True) if is_right]
    asked = [sum(prompt.attribute == number for prompt in prompts) for number in range(len(config.attributes))]
    tensors = {
        "entities": torch.tensor([prompt.entity for prompt in known], dtype=torch.int64),
        "attributes": torch.tensor([prompt.attribute for prompt in known], dtype=torch.int64),
        "positions": torch.tensor([prompt.position for prompt in known], dtype=torch.int64),
        "spaced": torch.tensor([prompt.spaced for prompt in known], dtype=torch.bool),
        **_joined("ids", [prompt.ids for prompt in known]),
        **_joined("labels", [prompt.label for prompt in known]),
    }
    return Content(tensors, {"num_entities": len(entity_class.labels), "num_asked": asked})


@torch.no_grad()
def _are_right(testbed: Testbed, prompts: Sequence[Prompt], progress: Progress) -> Tensor:
    """Returns whether the clean model continues each prompt by its label, (num_prompts,) bool."""
    right = torch.zeros(len(prompts), dtype=torch.bool)
    sequences = [forced(prompt.ids, prompt.label) for prompt in prompts]
    for rows, ids, last in padded_batches(sequences, testbed.batch_size):
        testbed.passes.full += len(rows)
        logits = testbed.language_model.model(input_ids=ids.to(testbed.device), use_cache=False).logits
        targets = [torch.tensor(prompts[row].label) for row in rows.tolist()]
        right[rows] = continues(logits, labels_for(last + 1, targets))
        progress.advance(len(rows))
    return right


def _joined(name: str, rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Returns rows one after the other, and their lengths, as tensors by name."""
    return {
        name: torch.tensor([token for row in rows for token in row], dtype=torch.int64),
        f"{name}_lengths": torch.tensor([len(row) for row in rows], dtype=torch.int64),
    }


def _split(tensors: Mapping[str, Tensor], name: str) -> list[tuple[int, ...]]:
    """Returns what `_joined` joined."""
    lengths = tensors[f"{name}_lengths"].tolist()
    return [tuple(row.tolist()) for row in torch.split(tensors[name], lengths)] if lengths else []
