from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saepipe.train.config import TrainConfig
from saepipe.train.rundir.checkpoint import load_checkpoint, save_checkpoint
from saepipe.train.sae.relu import ReLU
from saepipe.train.step import density as density_module
from saepipe.train.step.density import THRESHOLDS, density, next_is_sparse, starts_sparse, thresholds_at
from saepipe.train.step.sampling import Due
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params
from saepipe.train.step.step import step_loss, train_step
from saepipe.train.transforms.latent_dropout import LatentDropout

pytestmark = pytest.mark.quick

Make = Callable[..., TrainConfig]


@pytest.fixture
def small_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets sparse steps start at the shapes of the tests, which are far too small for them."""
    always = {key: replace(thresholds, least_work=0) for key, thresholds in THRESHOLDS.items()}
    monkeypatch.setattr(density_module, "THRESHOLDS", always)


def fresh_run(config: Make, **changes: Any) -> tuple[Recipe, TrainState]:
    resolved = config(**changes).resolved(hook="h", num_rows=1000, device=torch.device("cpu"))
    recipe = Recipe(resolved, 24, 1.0, torch.device("cpu"))
    return recipe, fresh_state(recipe, initial_params(recipe))


def rows(seed: int = 0) -> torch.Tensor:
    return torch.randn(17, 24, generator=torch.Generator().manual_seed(seed))


def make_active(state: TrainState, share: float) -> None:
    """Makes about this share of a relu's latents active on every token and the others on none."""
    with torch.no_grad():
        on = torch.arange(len(state.params["b_enc"])) < share * len(state.params["b_enc"])
        state.params["b_enc"].copy_(torch.where(on, 50.0, -50.0))


@pytest.mark.usefixtures("small_pays")
@pytest.mark.parametrize(("k", "expected"), [(2, True), (3, False)])  # 2 / 40 = 5 %, 3 / 40 = 7.5 %
def test_a_fixed_k_decides_at_the_first_step(config: Make, k: int, expected: bool) -> None:
    recipe, state = fresh_run(config, sae={"name": "topk", "d_sae": 40, "k": k}, penalties=[])
    assert state.sparse is expected
    train_step(recipe, state, rows())
    assert state.sparse is expected


@pytest.mark.usefixtures("small_pays")
@pytest.mark.parametrize(
    ("sparse", "share", "step", "expected"),
    [
        (False, 0.05, 0, True),
        (False, 0.05, 100, True),
        (False, 0.05, 50, False),  # the density is not measured in between
        (False, 0.075, 0, False),
        (True, 0.075, 0, True),  # hysteresis
        (True, 0.1, 0, False),
        (True, 0.1, 99, True),
    ],
)
def test_density_decides_with_hysteresis(config: Make, sparse: bool, share: float, step: int, expected: bool) -> None:
    recipe, state = fresh_run(config, steps=200)
    make_active(state, share)
    state.sparse, state.step = sparse, step
    loss = step_loss(recipe, state, rows())
    assert density(recipe.config, state.all_params, loss) == pytest.approx(share)
    thresholds = thresholds_at(step, recipe.config, recipe.d_in, recipe.device)
    assert (sparse if thresholds is None else next_is_sparse(sparse, share, thresholds)) is expected


@pytest.mark.usefixtures("small_pays")
@pytest.mark.parametrize("sparse_steps", ["always", "never"])
def test_always_and_never_are_kept(config: Make, sparse_steps: str) -> None:
    recipe, state = fresh_run(config, sparse_steps=sparse_steps)
    for share in (0.01, 1.0):
        make_active(state, share)
        state.step = 0
        train_step(recipe, state, rows())
        assert state.sparse is (sparse_steps == "always")


@pytest.mark.usefixtures("small_pays")
@pytest.mark.parametrize("keeps_zeros", [True, False])
def test_steps_with_transforms_are_sparse_if_zeros_are_kept(
    config: Make, keeps_zeros: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LatentDropout, "keeps_zeros", keeps_zeros)
    recipe, state = fresh_run(config, transforms=[{"name": "latent_dropout", "rate": 0.1}])
    make_active(state, 0.0)
    train_step(recipe, state, rows())
    assert state.sparse == keeps_zeros


@pytest.mark.usefixtures("small_pays")
def test_with_transforms_entries_whose_slope_is_estimated_count(config: Make) -> None:
    sae, transforms = {"name": "jumprelu", "d_sae": 40, "bandwidth": 0.5}, [{"name": "latent_dropout", "rate": 0.1}]
    shares = []
    for changes in ({}, {"transforms": transforms}):
        recipe, state = fresh_run(config, sae=sae, penalties=[], **changes)
        for state.sparse in (False, True):
            loss = step_loss(recipe, state, rows())
            shares.append(density(recipe.config, state.all_params, loss))
    pre_acts, threshold = loss.ctx.pre_acts, state.params["threshold"]
    active, near = pre_acts > threshold, (pre_acts - threshold).abs() < 0.25
    assert shares == pytest.approx(
        [float(mask.float().mean()) for mask in (active, active, active | near, active | near)]
    )
    assert shares[2] > shares[0]


def test_small_shapes_stay_dense(config: Make) -> None:
    recipe, _ = fresh_run(config, sae={"name": "topk", "d_sae": 4096, "k": 32}, penalties=[])
    large = recipe.config.model_copy(update={"batch_size": 2048})
    assert starts_sparse(large, 512, recipe.device)
    assert not starts_sparse(recipe.config, 24, recipe.device)


def test_a_device_without_thresholds_is_dense_unless_the_config_demands_sparse_steps(config: Make) -> None:
    recipe, _ = fresh_run(config, sae={"name": "topk", "d_sae": 4096, "k": 32}, penalties=[], batch_size=2048)
    cuda = torch.device("cuda")
    assert not starts_sparse(recipe.config, 512, cuda)
    assert starts_sparse(recipe.config.model_copy(update={"sparse_steps": "always"}), 512, cuda)
    relu = recipe.config.model_copy(update={"sae": ReLU(d_sae=4096)})
    assert thresholds_at(0, relu, 512, cuda) is None  # so nothing waits for the density
    assert thresholds_at(0, relu, 512, recipe.device) is not None


@pytest.mark.usefixtures("small_pays")
def test_a_checkpoint_keeps_the_path(config: Make, tmp_path: Path) -> None:
    recipe, state = fresh_run(config)
    make_active(state, 0.05)
    train_step(recipe, state, rows())
    assert state.sparse
    save_checkpoint(tmp_path, "run", state)
    loaded = load_checkpoint(tmp_path / "1", recipe)
    assert loaded.sparse
    never = replace(recipe, config=recipe.config.model_copy(update={"sparse_steps": "never"}))
    assert not load_checkpoint(tmp_path / "1", never).sparse
    for each in (state, loaded):
        train_step(recipe, each, rows(1))
    for name, value in state.params.items():
        assert torch.equal(value, loaded.params[name]), name


@pytest.mark.usefixtures("small_pays")
def test_measuring_a_sparse_step_changes_nothing(config: Make) -> None:
    recipe, state = fresh_run(config)
    make_active(state, 0.05)
    recipe = replace(recipe, config=recipe.config.model_copy(update={"sparse_steps": "always"}))
    other = fresh_state(recipe, initial_params(recipe))
    make_active(other, 0.05)
    state.sparse = True
    train_step(recipe, state, rows())
    measurement = train_step(recipe, other, rows(), Due.GRADIENTS | Due.LINE)
    assert measurement is not None
    assert measurement.sparse
    for name, value in state.params.items():
        assert torch.equal(value, other.params[name]), name
