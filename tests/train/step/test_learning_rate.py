from __future__ import annotations

import pytest

from saepipe.train.config_sections import DeadConfig, OptimizerConfig
from saepipe.train.penalties.l1 import L1
from saepipe.train.schedule import settings_at
from saepipe.train.step.learning_rate import last_resampling, learning_rate

pytestmark = pytest.mark.quick

NEVER = DeadConfig()


def test_the_rate_rises_stays_flat_and_falls() -> None:
    optimizer = OptimizerConfig(lr=2.0, warmup=0.2, decay=0.4)
    rates = [learning_rate(optimizer, NEVER, step, 10) for step in range(10)]
    assert rates == pytest.approx([1, 2, 2, 2, 2, 2, 2, 1.5, 1, 0.5])


def test_no_warmup_and_no_decay() -> None:
    optimizer = OptimizerConfig(lr=2.0, warmup=0, decay=0)
    assert {learning_rate(optimizer, NEVER, step, 10) for step in range(10)} == {2.0}


@pytest.mark.parametrize("num_steps", [1, 2, 3, 1000])
def test_no_step_has_a_rate_of_zero(num_steps: int) -> None:
    optimizer = OptimizerConfig(lr=1.0, warmup=0.5, decay=0.5)
    assert all(0 < learning_rate(optimizer, NEVER, step, num_steps) <= 1 for step in range(num_steps))


def test_resampling_leaves_a_period_to_learn_and_warms_up_again() -> None:
    dead = DeadConfig(resample_steps=10, rewarm=0.2)
    resampled = [step for step in range(45) if last_resampling(dead, step, 45) == step]
    assert resampled == [10, 20, 30]
    optimizer = OptimizerConfig(lr=1.0, warmup=0, decay=0)
    assert [learning_rate(optimizer, dead, step, 45) for step in (9, 10, 11, 12, 30, 40)] == [1, 0.5, 1, 1, 0.5, 1]


def test_a_penalty_warms_up_over_a_share_of_the_run() -> None:
    weights = [settings_at(L1(weight=4.0, warmup=0.4), step, 10)["weight"] for step in range(6)]
    assert weights == [1, 2, 3, 4, 4, 4]
    assert settings_at(L1(weight=4.0), 0, 10)["weight"] == 4
