"""A single run whose settled steps are captured."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from saepipe.train.captured.entry_room import EntryRoom, count_first, memory_to_count
from saepipe.train.captured.runners import Runner
from saepipe.train.captured.settled_step import StepTensors, settled_step
from saepipe.train.captured.traces import Traces
from saepipe.train.config import labels
from saepipe.train.schedule import moving_settings
from saepipe.train.setting import SettingsNow
from saepipe.train.step.dead import any_dead
from saepipe.train.step.density import thresholds_at
from saepipe.train.step.learning_rate import last_resampling, learning_rate
from saepipe.train.step.loss import factors_of
from saepipe.train.step.measure import Measurement
from saepipe.train.step.sampling import Due
from saepipe.train.step.state import Recipe, TrainState, overwrite
from saepipe.train.step.step import choose_path, settings_now, train_step, uniform


class CapturedRun:
    """Makes the steps of a run: settled ones from a trace, all others plainly.

    Plain are steps that are measured or resample, those whose density decides on the next, those in which the
    architecture follows a schedule, and every kind's first.
    """

    def __init__(
        self, recipe: Recipe, state: TrainState, runner: Runner, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """Takes over a run; its state can be saved and measured between any two steps."""
        self._recipe, self._state = recipe, state
        self._traces, self._say = Traces(runner, say), say
        self._tensors: StepTensors | None = None
        self._entry_room = EntryRoom(say)
        self._never_counted: set[Hashable] = set()  # kinds of steps that would be plain after they were counted

    def step(self, rows: Tensor, due: Due = Due.NOTHING) -> Measurement | None:
        """Trains on one batch as `train_step` does."""
        recipe, state = self._recipe, self._state
        choose_path(recipe, state)
        if due or self._is_special() or not self._replayed(rows):
            return train_step(recipe, state, rows, due)
        state.num_summed += 1
        state.step += 1
        return None

    def _is_special(self) -> bool:
        """Returns whether the host must look at values in this step."""
        config, step = self._recipe.config, self._state.step
        if self._recipe.moves_at(step):
            self._tell_once()
            return True
        resamples = last_resampling(config.dead, step, self._recipe.num_steps) == step
        return resamples or thresholds_at(step, config, self._recipe.d_in, self._recipe.device) is not None

    def _tell_once(self) -> None:
        say, self._say = self._say, lambda _: None
        say("steps are captured once the schedule of the architecture has ended; until then they are plain")

    def _replayed(self, rows: Tensor) -> bool:
        recipe, state = self._recipe.at(self._state.step), self._state
        numbers = uniform(recipe, state.step)
        dead, shape = any_dead(recipe, state.step, state.tokens_since_fired), (tuple(rows.shape), rows.dtype)
        if self._tensors is None:
            self._tensors = step_tensors(recipe, state, rows)
        elif (tuple(self._tensors.rows.shape), self._tensors.rows.dtype) != shape:
            return False
        self._fill(self._tensors, rows, numbers)
        tensors = self._tensors._replace(uniform=() if numbers is None else self._tensors.uniform)
        sparse, kind = state.sparse, (dead, state.sparse, numbers is None)
        room: tuple[int, int] | None = None
        if sparse and tensors.counted:
            room = None if kind in self._never_counted else self._room(recipe, self._tensors)
            if room is None:
                return False

        def function(step: int, tensors: StepTensors) -> None:
            settled_step(recipe, step, tensors, any_dead=dead, sparse=sparse, room=room)

        replayed = self._traces.replay((*kind, room), state.step, function, tensors)
        if room is not None and self._traces.refused((*kind, room)):
            self._never_counted.add(kind)
        return replayed

    def _room(self, recipe: Recipe, tensors: StepTensors) -> tuple[int, int] | None:
        """Counts the next step's entries and returns the room for them; None if they cannot be counted first."""
        counts = self._traces.replay("entries", self._state.step, lambda _, own: count_first(recipe, own), tensors)
        pre_acts, numbers = tensors.counted
        return self._entry_room.fitting(numbers.tolist(), pre_acts.numel()) if counts else None

    def _fill(self, tensors: StepTensors, rows: Tensor, numbers: Tensor | None) -> None:
        """Writes what the next step depends on to the tensors that its trace reads; nothing waits."""
        recipe, state = self._recipe, self._state
        if state.states is not tensors.states:  # a plain step has put others in their place
            overwrite(tensors.states, tree_map(torch.clone, state.states))
            overwrite(tensors.steered, tree_map(torch.clone, state.steered))
            state.states, state.steered = tensors.states, tensors.steered
        config, now = recipe.config, settings_now(recipe, state.step, state.steered)
        tensors.rows.copy_(rows, non_blocking=True)
        tensors.lr.fill_(learning_rate(config.optimizer, config.dead, state.step, recipe.num_steps))
        tensors.factors.copy_(step_factors(recipe, now))
        for label, settings in tensors.moving.items():
            for name, tensor in settings.items():
                value = now[label][name]
                tensor.copy_(value) if isinstance(value, Tensor) else tensor.fill_(value)
        if numbers is not None:
            tensors.uniform[0].copy_(numbers)


def step_tensors(recipe: Recipe, state: TrainState, rows: Tensor) -> StepTensors:
    """Returns the tensors of a run's steps: those of the state that stay in place, and memory for all others."""
    device, now = recipe.device, settings_now(recipe, state.step, state.steered)
    # torch's fused Adam reads a rate on CUDA as float32; a Python number is a float64.
    exact = torch.float64 if device.type == "cpu" else torch.float32

    def like(value: float | Tensor) -> Tensor:
        return torch.empty((), dtype=value.dtype if isinstance(value, Tensor) else exact, device=device)

    return StepTensors(
        params=state.params,
        buffers=state.buffers,
        moments=state.moments,
        tokens_since_fired=state.tokens_since_fired,
        states=tree_map(torch.clone, state.states),
        steered=tree_map(torch.clone, state.steered),
        sums=state.sums,
        rows=torch.empty_like(rows, device=device),
        lr=torch.empty((), dtype=exact, device=device),
        factors=torch.empty_like(step_factors(recipe, now)),
        moving={
            label: {name: like(now[label][name]) for name in sorted(moving_settings(component))}
            for label, component in recipe.config.components()
        },
        uniform=(torch.empty(recipe.config.sae.d_sae, device=device),),
        counted=memory_to_count(recipe, len(rows)),
    )


def step_factors(recipe: Recipe, now: Mapping[str, SettingsNow]) -> Tensor:
    """Returns `Loss.factors` from the settings of a step."""
    weights = [1.0, *(now[label]["weight"] for label in labels(recipe.config.penalties))]
    return factors_of(weights, torch.float32, recipe.device)
