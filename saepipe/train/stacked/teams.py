"""Which runs are trained as one: a rule on shape alone, never on timing, so that it is the same on every machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from saepipe.train.captured.captured_run import CapturedRun
from saepipe.train.captured.runners import runner_of
from saepipe.train.penalties.base import Penalty
from saepipe.train.penalties.contract import check_stacking
from saepipe.train.stacked.blocks import Blocks, block_shape, why_no_block
from saepipe.train.stacked.stack import MOVING, Stack, structure, why_not_stackable
from saepipe.train.step.kl_tail import CleanWindows
from saepipe.train.step.measure import Measurement, measure_due
from saepipe.train.step.sampling import Due
from saepipe.train.step.state import Recipe, TrainState
from saepipe.train.step.step import step_loss, train_step

T = TypeVar("T")

MAX_STACKED_WORK = 2**26
"""Multiplications of one matrix product of a run. A step of 8 stacked runs takes 0.6 of the time of 8 single steps at
2^22 and 0.75 at 2^26, and little or nothing is gained above (`python bench/stack.py`). Steps are sparse only far above
(saepipe/train/step/density.py), unless the config demands it.
"""


def teams(runs: Sequence[T], recipe_of: Callable[[T], Recipe]) -> list[list[T]]:
    """Splits runs that are at one step into those that step together, in the order of their first members.

    Within a team, runs of the same learning rate are neighbours: Adam is called once per stretch of them.
    """
    members: dict[Any, list[T]] = {}
    for index, run in enumerate(runs):
        recipe = recipe_of(run)
        members.setdefault(_kind(recipe) or index, []).append(run)
    return [sorted(team, key=lambda run: _rate(recipe_of(run))) for team in members.values()]


def _kind(recipe: Recipe) -> str | None:
    """Returns what runs that step together have in common; None for a run that steps alone."""
    if why_no_block(recipe) is None:
        return repr(block_shape(recipe)) if small(recipe) else None
    return repr(structure(recipe)) if may_be_stacked(recipe) else None


def small(recipe: Recipe) -> bool:
    """Returns whether a step is small enough to gain from others beside it."""
    return recipe.config.batch_size * recipe.d_in * recipe.config.sae.d_sae <= MAX_STACKED_WORK


def may_be_stacked(recipe: Recipe) -> bool:
    """Returns whether the run makes dense steps together with others of its structure, if there are any."""
    config = recipe.config
    allowed = not config.exact and config.sparse_steps != "always"
    return small(recipe) and allowed and not why_not_stackable(recipe) and all(map(_stacks, config.penalties))


def _stacks(penalty: Penalty) -> bool:
    try:
        return check_stacking(penalty) is None
    except Exception:  # a plugin may fail at the check's own steps; its run then shows where it fails
        return False


def _rate(recipe: Recipe) -> tuple[float, ...]:
    return tuple(getattr(recipe.config.optimizer, name) for name in MOVING)


class Team:
    """Runs at one step that make their steps together: a stack, blocks, or a single run."""

    def __init__(self, runs: Sequence[tuple[Recipe, TrainState]], say: Callable[[str], None] = lambda _: None) -> None:
        """Takes over runs; `say` is told which of their steps cannot be captured."""
        self._runs = runs
        self._stack = _together(runs, say) if len(runs) > 1 else None
        runner = None if self._stack else runner_of(runs[0][0])
        self._captured = CapturedRun(*runs[0], runner, say) if runner else None

    def step(self, rows: Tensor, due: Sequence[Due], windows: CleanWindows | None = None) -> list[Measurement | None]:
        """Trains every run on one batch and measures what is due, which changes no bit of the training.

        Args:
            rows: raw activations (batch, d_in).
            due: one per run.
            windows: of the step, if this is a single run in its KL tail.
        """
        if self._captured is not None:
            return [self._captured.step(rows, due[0])]
        if self._stack is None:
            (recipe, state), (own,) = self._runs[0], due
            return [train_step(recipe, state, rows, own, windows)]
        x = self._runs[0][0].scaled(rows)
        measurements = [
            measure_due(recipe, state, step_loss(recipe, state, x), own) if own else None
            for (recipe, state), own in zip(self._runs, due, strict=True)
        ]
        self._stack.step(x)
        return measurements


def _together(runs: Sequence[tuple[Recipe, TrainState]], say: Callable[[str], None]) -> Stack | Blocks:
    """Takes over several runs of one kind."""
    return Stack(runs, say) if why_no_block(runs[0][0]) else Blocks(runs)
