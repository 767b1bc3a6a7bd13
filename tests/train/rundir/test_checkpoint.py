"""A checkpoint counts as kept, unless it is of a step that was kept before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from saepipe.data.ranks.kept import KEPT
from saepipe.train.config import TrainConfig
from saepipe.train.plan import plan_runs
from saepipe.train.rundir.checkpoint import save_checkpoint
from saepipe.train.step.state import fresh_state, initial_params


def test_a_new_step_is_progress_and_the_same_again_is_none(
    config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KEPT, "number", 0)
    recipe = plan_runs(config(), tmp_path)[0].recipe
    state = fresh_state(recipe, initial_params(recipe))
    for step, number in ((3, 1), (3, 1), (7, 2)):
        state.step = step
        save_checkpoint(tmp_path / "checkpoints", "run", state)
        assert KEPT.number == number
