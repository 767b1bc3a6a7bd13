from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saepipe.train.config import TrainConfig
from saepipe.train.rundir.checkpoint import load_checkpoint, save_checkpoint
from saepipe.train.step import density as rule
from saepipe.train.step.density import density, looks_at_density, sparse_at_first, sparse_next
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params
from saepipe.train.step.step import step_loss, train_step

Make = Callable[..., TrainConfig]


@pytest.fixture
def small_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own shapes are far below those at which a sparse step pays."""
    monkeypatch.setattr(rule, "LEAST_WORK", 0)


def begun(config: Make, **changes: Any) -> tuple[Recipe, TrainState]:
    resolved = config(**changes).resolved(hook="h", num_rows=1000, device=torch.device("cpu"))
    recipe = Recipe(resolved, 24, 1.0, torch.device("cpu"))
    return recipe, fresh_state(recipe, initial_params(recipe))


def rows(seed: int = 0) -> torch.Tensor:
    return torch.randn(17, 24, generator=torch.Generator().manual_seed(seed))


def make_active(state: TrainState, share: float) -> None:
    """Lets about this share of a relu's latents fire at every token and the others never."""
    with torch.no_grad():
        on = torch.arange(len(state.params["b_enc"])) < share * len(state.params["b_enc"])
        state.params["b_enc"].copy_(torch.where(on, 50.0, -50.0))


@pytest.mark.usefixtures("small_pays")
@pytest.mark.parametrize(("k", "expected"), [(2, True), (3, False)])  # 2 / 40 = 5 %, 3 / 40 = 7.5 %
def test_a_fixed_k_decides_from_the_first_step(config: Make, k: int, expected: bool) -> None:
    recipe, state = begun(config, sae={"name": "topk", "d_sae": 40, "k": k}, penalties=[])
    assert state.sparse is expected
    train_step(recipe, state, rows())
    assert state.sparse is expected


@pytest.mark.usefixtures("small_pays")
@pytest.mark.parametrize(
    ("sparse", "share", "step", "expected"),
    [
        (False, 0.05, 0, True),
        (False, 0.05, 100, True),
        (False, 0.05, 50, False),  # it is not looked at between
        (False, 0.075, 0, False),
        (True, 0.075, 0, True),  # hysteresis
        (True, 0.1, 0, False),
        (True, 0.1, 99, True),
    ],
)
def test_density_decides_with_hysteresis(config: Make, sparse: bool, share: float, step: int, expected: bool) -> None:
    recipe, state = begun(config, steps=200)
    make_active(state, share)
    state.sparse, state.step = sparse, step
    loss = step_loss(recipe, state, rows())
    assert density(recipe.config.sae, state.all_params, loss) == pytest.approx(share)
    looked = looks_at_density(recipe.config, recipe.d_in, step)
    assert (sparse_next(sparse, share) if looked else sparse) is expected


@pytest.mark.usefixtures("small_pays")
@pytest.mark.parametrize("asked", ["always", "never"])
def test_what_is_asked_for_stays(config: Make, asked: str) -> None:
    recipe, state = begun(config, sparse_steps=asked)
    for share in (0.01, 1.0):
        make_active(state, share)
        state.step = 0
        train_step(recipe, state, rows())
        assert state.sparse is (asked == "always")


@pytest.mark.usefixtures("small_pays")
def test_what_has_no_sparse_steps_takes_none(config: Make) -> None:
    for changes in ({"sae": {"name": "gated", "d_sae": 40}}, {"transforms": [{"name": "latent_dropout", "rate": 0.1}]}):
        recipe, state = begun(config, **changes)
        make_active(state, 0.0)
        train_step(recipe, state, rows())
        assert not state.sparse


def test_small_shapes_stay_dense(config: Make) -> None:
    recipe, _ = begun(config, sae={"name": "topk", "d_sae": 4096, "k": 32}, penalties=[])
    large = recipe.config.model_copy(update={"batch_size": 2048})
    assert sparse_at_first(large, 512)
    assert not sparse_at_first(recipe.config, 24)


@pytest.mark.usefixtures("small_pays")
def test_a_checkpoint_keeps_the_path(config: Make, tmp_path: Path) -> None:
    recipe, state = begun(config)
    make_active(state, 0.05)
    train_step(recipe, state, rows())
    assert state.sparse
    save_checkpoint(tmp_path, "run", state)
    again = load_checkpoint(tmp_path / "1", recipe)
    assert again.sparse
    never = replace(recipe, config=recipe.config.model_copy(update={"sparse_steps": "never"}))
    assert not load_checkpoint(tmp_path / "1", never).sparse
    for one in (state, again):
        train_step(recipe, one, rows(1))
    for name, value in state.params.items():
        assert torch.equal(value, again.params[name]), name


@pytest.mark.usefixtures("small_pays")
def test_measuring_a_sparse_step_changes_nothing(config: Make) -> None:
    recipe, state = begun(config)
    make_active(state, 0.05)
    recipe = replace(recipe, config=recipe.config.model_copy(update={"sparse_steps": "always"}))
    other = fresh_state(recipe, initial_params(recipe))
    make_active(other, 0.05)
    state.sparse = True
    measured = [train_step(recipe, one, rows(), watched=one is other) for one in (state, other)]
    assert measured[1] is not None
    assert measured[1].sparse
    for name, value in state.params.items():
        assert torch.equal(value, other.params[name]), name
