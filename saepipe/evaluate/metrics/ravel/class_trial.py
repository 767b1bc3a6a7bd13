"""One class of entities, tested on one SAE: each attribute's latents are learned, swapped, and scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from saepipe.evaluate.metrics.ravel.entities import EntityClassConfig
from saepipe.evaluate.metrics.ravel.known_prompts import KnownPrompts
from saepipe.evaluate.metrics.ravel.latent_mask import MaskTraining, learn_mask, swap_latents
from saepipe.evaluate.metrics.ravel.pair_inputs import PairInputs
from saepipe.evaluate.metrics.ravel.swap_scores import SwapScores, entity_counts, estimates, swap_scores
from saepipe.evaluate.model.upper_layers import UpperLayers
from saepipe.evaluate.sae.subject import Subject

_MAX_LISTED_LATENTS = 20


@dataclass(frozen=True)
class AttributeOutcome:
    """Scores of one SAE on one attribute."""

    attribute: int
    latents: Tensor
    """(num_selected,) int64"""
    scores: SwapScores


@dataclass(frozen=True)
class ClassTrial:
    """What the model knows of one class of entities, and the pairs that are the same for all SAEs."""

    config: EntityClassConfig
    known: KnownPrompts
    inputs: PairInputs
    seed: tuple[int, int]
    """of the resamples"""

    @property
    def measurable(self) -> list[int]:
        """Numbers of the attributes that can be measured."""
        return [number for number in range(len(self.config.attributes)) if number not in self.inputs.reasons]

    def num_pairs(self, *, test: bool) -> int:
        return int((self.inputs.is_test == test).sum())

    def num_entities(self, *, test: bool) -> int:
        """Returns the number of entities in the base prompts of one part."""
        return len(np.unique(self.inputs.base_entity[self.inputs.is_test == test].numpy()))

    def run(
        self, subject: Subject, upper_layers: UpperLayers, training: MaskTraining, advance: Callable[[int], None]
    ) -> list[AttributeOutcome]:
        """Returns the outcome for each measurable attribute."""
        return [self._outcome(a, subject, upper_layers, training, advance) for a in self.measurable]

    def _outcome(
        self,
        attribute: int,
        subject: Subject,
        upper_layers: UpperLayers,
        training: MaskTraining,
        advance: Callable[[int], None],
    ) -> AttributeOutcome:
        train, test = (self.inputs.select(attribute, test=test) for test in (False, True))
        selected = learn_mask(subject, upper_layers, self.inputs, train, training, advance)
        reached = swap_latents(subject, upper_layers, self.inputs, test, selected, training.batch_size)
        advance(len(test))
        return AttributeOutcome(attribute, selected.nonzero().squeeze(1).cpu(), self._scores(test, reached))

    @cached_property
    def whole_swaps(self) -> dict[int, SwapScores]:
        """Scores by measurable attribute if the source's whole activation replaces the base's, without any SAE."""
        by_attribute = {attribute: self.inputs.select(attribute, test=True) for attribute in self.measurable}
        return {a: self._scores(rows, self.inputs.swapped[rows]) for a, rows in by_attribute.items()}

    def _scores(self, rows: Tensor, reached: Tensor) -> SwapScores:
        is_cause, bases, sources = (column[rows].numpy() for column in (self.inputs.is_cause, *self._entities))
        return swap_scores(reached.numpy(), is_cause, bases, sources, self._counts)

    @property
    def _entities(self) -> tuple[Tensor, Tensor]:
        return self.inputs.base_entity, self.inputs.source_entity

    @cached_property
    def _counts(self) -> np.ndarray:
        tested = np.unique([entities[self.inputs.is_test].numpy() for entities in self._entities])
        return entity_counts(tested, self.known.num_entities, self.seed)

    def rows(self, outcomes: Sequence[AttributeOutcome]) -> list[dict[str, Any]]:
        """Returns one row of plain data per attribute, with the reason if it could not be measured."""
        by_attribute = {outcome.attribute: outcome for outcome in outcomes}
        return [self._row(number, by_attribute.get(number)) for number in range(len(self.config.attributes))]

    def _row(self, number: int, outcome: AttributeOutcome | None) -> dict[str, Any]:
        row: dict[str, Any] = {
            "entity_class": self.config.name,
            "attribute": self.config.attributes[number],
            "prompts": self.known.num_asked[number],
            "right": self.known.num_right(number),
        }
        if outcome is None:
            return row | {"reason": self.inputs.reasons[number]}
        whole = self.whole_swaps[number]
        scores = estimates(outcome.scores)
        return row | {
            "test_pairs": len(self.inputs.select(number, test=True)),
            "num_latents": len(outcome.latents),
            "latents": outcome.latents[:_MAX_LISTED_LATENTS].tolist(),
            **{key: score.value for key, score in scores.items()},
            "intervals": {key: [score.low, score.high] for key, score in scores.items()},
            "whole_swap": {"cause_score": float(whole.cause[0]), "isolation_score": float(whole.isolation[0])},
        }
