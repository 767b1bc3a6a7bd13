"""Which runs are trained as one: a rule on shape alone, never on timing, so that it is the same on every machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from saepipe.train.penalties.contract import check_stacking
from saepipe.train.stacked.stack import MOVING, Stack, structure, why_not
from saepipe.train.step.measure import Measurement, measure
from saepipe.train.step.state import Recipe, TrainState
from saepipe.train.step.step import step_loss, train_step

T = TypeVar("T")

MOST_WORK = 2**26
"""Multiplications of one matrix product of a run. Steps of a stack of 8 take 0.6 of the time of one after the other at
2^22 and 0.75 at 2^26, and gain little or nothing further up (`python bench/stack.py`). Steps are sparse only far above
(saepipe/train/step/density.py).
"""


def teams(runs: Sequence[T], recipe_of: Callable[[T], Recipe]) -> list[list[T]]:
    """Splits runs at one step into those that step together, in the order of their first ones.

    In a team those of one learning rate stand side by side: Adam is called once for each stretch of them.
    """
    found: dict[Any, list[T]] = {}
    for place, run in enumerate(runs):
        recipe = recipe_of(run)
        found.setdefault(repr(structure(recipe)) if may_be_stacked(recipe) else place, []).append(run)
    return [sorted(team, key=lambda run: _rate(recipe_of(run))) for team in found.values()]


def may_be_stacked(recipe: Recipe) -> bool:
    """Whether the run steps together with others of its structure, where there are some."""
    config = recipe.config
    small = config.batch_size * recipe.d_in * config.sae.d_sae <= MOST_WORK
    asked = not config.exact and config.sparse_steps != "always"
    return small and asked and not why_not(recipe) and not any(map(check_stacking, config.penalties))


def _rate(recipe: Recipe) -> tuple[float, ...]:
    return tuple(getattr(recipe.config.optimizer, name) for name in MOVING)


class Team:
    """Runs at one step that make their steps together: a stack of them, or one alone."""

    def __init__(self, runs: Sequence[tuple[Recipe, TrainState]]) -> None:
        self._runs = runs
        self._stack = Stack(runs) if len(runs) > 1 else None

    def step(self, rows: Tensor, watched: Sequence[bool]) -> list[Measurement | None]:
        """Trains every run on one batch and measures those that are watched, which changes nothing else.

        Args:
            rows: raw activations (batch, d_in).
            watched: of each run.
        """
        if self._stack is None:
            (recipe, state), (looks,) = self._runs[0], watched
            return [train_step(recipe, state, rows, watched=looks)]
        x = self._stack.first.scaled(rows)
        measured = [
            measure(recipe, state, step_loss(recipe, state, x)) if looks else None
            for (recipe, state), looks in zip(self._runs, watched, strict=True)
        ]
        self._stack.step(x)
        return measured
