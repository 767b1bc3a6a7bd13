"""The charted gradients of a run do not alias with a penalty's searches, whatever the two periods."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import correlation, fmean

import numpy as np
import pytest
import torch

from helpers.made_caches import structured_rows
from saepipe.train.config import TrainConfig
from saepipe.train.rundir.checkpoint import load_checkpoint, save_checkpoint
from saepipe.train.step.sampling import Due, GradientSample, due_at, gradients_at, interval, sampled_step
from saepipe.train.step.state import Recipe, fresh_state, initial_params
from saepipe.train.step.step import train_step

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")
WARM = 200  # steps until the shares have settled


def steps_of_lines(num_steps: int, log_every: int) -> list[tuple[int, int]]:
    """Returns (step, step of its gradients) of every line, from the measurements that are due."""
    lines, sampled = [], None
    for step in range(1, num_steps + 1):
        due = due_at(step, num_steps, log_every, sampled=sampled is not None)
        if Due.GRADIENTS in due:
            assert sampled is None, "sampled twice for one line"
            sampled = step
        if Due.LINE in due:
            assert sampled is not None
            lines.append((step, sampled))
            sampled = None
    return lines


@pytest.mark.quick
@pytest.mark.parametrize(("num_steps", "log_every"), [(1, 5), (3, 5), (5, 5), (20, 1), (100, 7), (1000, 100)])
def test_a_line_has_one_sample_of_its_own_interval(num_steps: int, log_every: int) -> None:
    lines = steps_of_lines(num_steps, log_every)
    assert [step for step, _ in lines] == sorted({1, *range(log_every, num_steps + 1, log_every), num_steps})
    before = 0
    for step, sampled in lines:
        assert interval(step, num_steps, log_every) == (before + 1, step)
        assert before < sampled <= step
        before = step


@pytest.mark.quick
def test_without_a_sample_the_line_samples_its_own_step() -> None:
    """As after a checkpoint of an earlier version, which may lie after the sampled step."""
    assert due_at(100, 1000, 100, sampled=False) == Due.GRADIENTS | Due.LINE
    assert due_at(100, 1000, 100, sampled=True) == Due.LINE
    assert gradients_at({"step": 100}) == 100
    assert gradients_at({"step": 100, "gradients_at": 13}) == 13


@pytest.mark.quick
@pytest.mark.parametrize("log_every", [10, 20, 50, 65, 100])
def test_every_phase_of_every_search_interval_is_sampled_equally_often(log_every: int) -> None:
    num_lines = 5000
    steps = np.array([sampled_step((k - 1) * log_every + 1, k * log_every) for k in range(1, num_lines + 1)])
    for search_every in range(2, 101):
        phases = (steps - 1) % search_every
        counts = np.bincount(phases, minlength=search_every)
        expected = num_lines / search_every
        assert abs(counts - expected).max() < 5 * expected**0.5, search_every
        if search_every <= log_every:  # a longer fall spans several lines, and the chart shows it
            assert abs(correlation(phases[1:].tolist(), phases[:-1].tolist())) < 0.1, search_every


@pytest.mark.quick
def test_a_checkpoint_keeps_a_sample_that_is_not_finite(config: Make, tmp_path: Path) -> None:
    recipe = Recipe(config().resolved(hook="h", num_rows=1000, device=CPU), 24, 1.0, CPU)
    state = fresh_state(recipe, initial_params(recipe))
    state.sampled = GradientSample(3, {"l1": 0.1 + 0.2}, math.inf, {"l1/odd": math.nan})
    save_checkpoint(tmp_path, "id", state)
    assert repr(load_checkpoint(tmp_path / "0", recipe).sampled) == repr(state.sampled)


def shares_of_every_step(config: Make, refresh_every: int, num_steps: int) -> list[float]:
    """Returns the gradient share of `topk_orthogonality` at each step of a run."""
    penalty = {"name": "topk_orthogonality", "weight": 1.0, "refresh_every": refresh_every}
    made = config(sae={"name": "topk", "d_sae": 40, "k": 4}, penalties=[penalty], steps=num_steps)
    recipe = Recipe(made.resolved(hook="h", num_rows=1000, device=CPU), 24, 1.0, CPU)
    state = fresh_state(recipe, initial_params(recipe))
    shares = []
    for rows in structured_rows(17 * num_steps, 24).view(num_steps, 17, 24):
        train_step(recipe, state, rows, Due.GRADIENTS)
        assert state.sampled is not None
        shares.append(state.sampled.norms["topk_orthogonality"] / sum(state.sampled.norms.values()))
    return shares


def shares_of_lines(truth: Sequence[float]) -> tuple[list[float], list[float]]:
    """Returns the shares at the own steps of lines every 20 steps, and at their gradients' steps."""
    lines = [line for line in steps_of_lines(len(truth), 20) if line[0] > WARM]
    return [truth[step - 1] for step, _ in lines], [truth[sampled - 1] for _, sampled in lines]


def test_the_charted_share_draws_no_slow_saw(config: Make) -> None:
    """At the lines' own steps the phase moves by one step of 21 per line."""
    truth = shares_of_every_step(config, refresh_every=21, num_steps=860)
    at_lines, charted = shares_of_lines(truth)
    assert correlation(at_lines[1:], at_lines[:-1]) > 0.5
    assert abs(correlation(charted[1:], charted[:-1])) < 0.25
    assert fmean(charted) == pytest.approx(fmean(truth[WARM:]), rel=0.1)


def test_the_charted_share_is_not_the_least_of_each_interval(config: Make) -> None:
    truth = shares_of_every_step(config, refresh_every=20, num_steps=600)
    at_lines, charted = shares_of_lines(truth)
    assert fmean(at_lines) < 0.75 * fmean(truth[WARM:])
    assert fmean(charted) == pytest.approx(fmean(truth[WARM:]), rel=0.1)
