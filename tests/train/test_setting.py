"""Settings that change during a run: schedules against formulas, controllers against a plant, error messages."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import pytest
import torch
from torch.nn.functional import normalize

from saepipe.data.config.base import Config
from saepipe.data.errors import ConfigError
from saepipe.train.config import TrainConfig
from saepipe.train.penalties.l1 import L1
from saepipe.train.schedule import Controller, Schedule, settings_at
from saepipe.train.setting import Setting, within
from saepipe.train.step.sampling import Due
from saepipe.train.step.state import Recipe, fresh_state, initial_params
from saepipe.train.step.step import steer, step_loss, train_step

pytestmark = pytest.mark.quick

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("shape", "half"), [("linear", 0.505), ("exponential", 0.1), ("cosine", 0.505)], ids=lambda value: str(value)
)
def test_a_schedule_goes_from_start_to_end(shape: str, half: float) -> None:
    schedule = Schedule.parse({"shape": shape, "start": 1.0, "end": 0.01, "begin": 0.1, "finish": 0.6})
    values = [schedule.at(step, 201) for step in range(201)]
    assert values[: 20 + 1] == [1.0] * 21
    assert values[70] == pytest.approx(half, rel=1e-2)
    assert values[120:] == pytest.approx([0.01] * 81)
    assert values == sorted(values, reverse=True)


def test_an_exponential_schedule_gives_the_decay_of_study_b() -> None:
    """0.1 * 0.999^step over 4,882 steps, as in the study on top-k orthogonality."""
    schedule = Schedule(shape="exponential", start=0.1, end=0.1 * 0.999**4881)
    assert [schedule.at(step, 4882) for step in (0, 693, 4881)] == pytest.approx(
        [0.1 * 0.999**step for step in (0, 693, 4881)]
    )


def test_a_cosine_schedule_begins_and_ends_flat() -> None:
    schedule = Schedule(shape="cosine", start=2.0, end=0.0)
    assert schedule.at(25, 101) == pytest.approx(1 + math.cos(math.pi / 4))
    assert 2 - schedule.at(1, 101) < 1e-3 < schedule.at(0, 101) - schedule.at(50, 101)


def test_h19_a_schedule_longer_than_the_run_is_refused(config: Make) -> None:
    weight = {"start": 0.1, "end": 0.01, "steps": 21}
    train_config = config(penalties=[{"name": "l1", "weight": weight}])
    with pytest.raises(ConfigError, match=r"H19 .*: the schedule of l1\.weight ends at step 21.* the run has 20 steps"):
        train_config.resolved(hook="h", num_rows=1000, device=CPU)
    fits = config(penalties=[{"name": "l1", "weight": {**weight, "steps": 20}}])
    assert fits.resolved(hook="h", num_rows=1000, device=CPU).steps == 20


def test_warm_up_multiplies_scheduled_and_steered_weights() -> None:
    penalty = L1.parse({"weight": {"start": 2.0, "end": 1.0}, "warmup": 0.5})
    assert settings_at(penalty, 0, 11)["weight"] == pytest.approx(2 / 5.5)
    assert settings_at(penalty, 10, 11)["weight"] == 1.0
    steered = L1.parse({"weight": {"to": 3.0, "start": 4.0}, "warmup": 0.5})
    assert float(settings_at(steered, 0, 11, {"weight": torch.tensor(4.0).log()})["weight"]) == pytest.approx(4 / 5.5)


@pytest.mark.parametrize("lowers", [True, False])
def test_a_controller_brings_a_lagging_quantity_to_its_target(lowers: bool) -> None:
    """In the plant, the log quantity follows 3 -+ log setting with a lag of 20 steps."""
    controller = Controller(to=5.0, start=1.0, setting_lowers=lowers)
    setting, quantity = torch.tensor(0.0), torch.tensor(3.0)
    settings = []
    for step in range(1000):
        quantity = quantity + (3 + (-setting if lowers else setting) - quantity) / 20
        setting = controller.moved(setting, quantity.exp(), step, 1000)
        settings.append(float(setting))
    assert float(quantity.exp()) == pytest.approx(5.0, rel=0.01)
    assert len(set(settings[799:])) == 1


def test_a_steered_statistic_is_that_of_the_step_before_its_update(config: Make) -> None:
    weight = {"steer": "cos_out", "to": 0.3, "start": 1.0}
    resolved = config(penalties=[{"name": "ortsae", "weight": weight}]).resolved(hook="h", num_rows=1000, device=CPU)
    recipe = Recipe(resolved, 24, 1.0, CPU)
    state = fresh_state(recipe, initial_params(recipe))
    state.params["W_dec"].data = normalize(state.params["W_dec"].data + 0.2, dim=1)
    rows = torch.randn(17, 24, generator=torch.Generator().manual_seed(0))
    start = state.steered
    expected = steer(recipe, 0, step_loss(recipe, state, rows), start)
    train_step(recipe, state, rows)
    assert state.steered == expected
    assert steer(recipe, 0, step_loss(recipe, state, rows), start) != expected


def test_a_run_trains_with_its_steered_weight_and_keeps_it_in_its_state(config: Make) -> None:
    resolved = config(penalties=[{"name": "l0_target", "l0": 4.0, "weight": 0.1}]).resolved(
        hook="h", num_rows=1000, device=CPU
    )
    recipe = Recipe(resolved, 24, 1.0, CPU)
    state = fresh_state(recipe, initial_params(recipe))
    assert float(state.steered["l0_target.weight"].exp()) == pytest.approx(0.1)
    rows = torch.randn(17, 24, generator=torch.Generator().manual_seed(0))
    measured = train_step(recipe, state, rows, Due.GRADIENTS | Due.LINE)
    assert measured is not None
    assert state.sampled is not None
    assert measured.l0 > 4
    assert state.sampled.statistics["l0_target/l0"] == pytest.approx(measured.l0)
    moved = 0.1 * math.exp(0.03 * min(1.0, math.log(measured.l0 / 4)))
    assert float(state.steered["l0_target.weight"].exp()) == pytest.approx(moved, rel=1e-5)


def test_l0_target_refuses_an_architecture_with_fixed_k(config: Make) -> None:
    with pytest.raises(ConfigError, match="topk has k = 4"):
        config(sae={"name": "topk", "d_sae": 40, "k": 4}, penalties=[{"name": "l0_target", "l0": 4.0}])


class Example(Config):
    share: Annotated[Setting, within(0, 1)] = 0.5


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (1.5, r"share = 1.5: must be within \[0, 1\]"),
        ({"start": 0.5, "end": 2.0}, r"share: must be within \[0, 1\]"),
        ({"start": 0.5, "end": 0.0, "shape": "exponential"}, "cannot go from 0.5 to 0.0"),
        ({"start": 0.5, "end": 0.1, "begin": 0.9, "finish": 0.3}, "finishes at 0.3 of the run"),
        ({"strat": 0.5, "end": 0.1}, "unknown key 'share.schedule.strat'; did you mean 'start'"),
        ({"to": 4, "start": 1, "gian": 2}, "unknown key 'share.controller.gian'; did you mean 'gain'"),
        ("often", "must be a number"),
    ],
)
def test_a_setting_error_names_its_own_form_only(share: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Example.parse({"share": share})
