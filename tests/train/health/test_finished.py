"""Health rules on the state of a finished run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from saepipe.train.config import TrainConfig
from saepipe.train.health.finished import check_finished, check_finite
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params

pytestmark = pytest.mark.quick

CPU = torch.device("cpu")


@pytest.fixture
def trained(config: Callable[..., TrainConfig]) -> tuple[Recipe, TrainState]:
    """Returns a run of 20 steps at its end, with weights that have moved."""
    recipe = Recipe(config().resolved(hook="h", num_rows=1000, device=CPU), 24, 1.0, CPU)
    state = fresh_state(recipe, initial_params(recipe))
    state.step = 20
    with torch.no_grad():
        state.params["W_enc"].mul_(1.1)
        state.params["W_dec"].copy_(state.params["W_dec"].roll(1, dims=0))
    return recipe, state


def rules(recipe: Recipe, state: TrainState) -> list[str]:
    findings = check_finished(recipe, state, initial_params(recipe))
    assert all(finding.severity == "error" for finding in findings)
    return [finding.rule for finding in findings]


def test_a_sound_run_has_no_findings(trained: tuple[Recipe, TrainState]) -> None:
    assert rules(*trained) == []


@pytest.mark.parametrize("done", [0, 19, 21])
def test_h6_steps(trained: tuple[Recipe, TrainState], done: int) -> None:
    trained[1].step = done
    assert rules(*trained) == ["H6"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_h7_finite(trained: tuple[Recipe, TrainState], value: float) -> None:
    recipe, state = trained
    state.sums[0, 0] = value
    assert rules(recipe, state) == ["H7"]
    state.sums.zero_()
    with torch.no_grad():
        state.params["b_enc"][3] = value
    assert [finding.message for finding in check_finite(state)] == [
        "not finite at step 20: b_enc; try a lower lr or smaller penalty weights"
    ]


def test_h8_moved(trained: tuple[Recipe, TrainState]) -> None:
    recipe, state = trained
    with torch.no_grad():
        state.params["W_enc"].copy_(initial_params(recipe)["W_enc"] * 1.0001)
    assert rules(recipe, state) == ["H8"]


def test_h14_unit_rows(trained: tuple[Recipe, TrainState]) -> None:
    recipe, state = trained
    with torch.no_grad():
        state.params["W_dec"][5] *= 1.01
    assert rules(recipe, state) == ["H14"]


def test_h14_finds_normalisation_along_the_wrong_axis(trained: tuple[Recipe, TrainState]) -> None:
    """Normalises each input coordinate over the latents, as in study A."""
    recipe, state = trained
    with torch.no_grad():
        state.params["W_dec"].div_(state.params["W_dec"].norm(dim=0, keepdim=True))
    assert rules(recipe, state) == ["H14"]
