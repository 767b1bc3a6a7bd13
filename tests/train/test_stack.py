"""Runs trained side by side end where each ends alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saepipe.data.errors import ConfigError
from saepipe.train.config import TrainConfig
from saepipe.train.log import measure
from saepipe.train.stack import Stack
from saepipe.train.state import Recipe, fresh_state, initial_params
from saepipe.train.step import step_loss, train_step

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")
WEIGHTS = (0.1, 0.3, 1.0)
L1 = {"name": "l1", "weight": 0.3, "warmup": 0.2}


def recipe(config: TrainConfig) -> Recipe:
    return Recipe(config.resolved(hook="h", num_rows=1000, device=CPU), 24, 1.0, CPU)


def batches() -> Tensor:
    """(steps, num_runs, batch, d_in)"""
    return torch.randn(20, len(WEIGHTS), 17, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sae": {"name": "topk", "d_sae": 40, "k": 4}, "penalties": [{"name": "auxk"}], "dead": {"after_tokens": 60}},
        {"penalties": [{**L1, "weight": {"steer": "l0", "to": 5.0, "start": 0.3}}]},
    ],
)
def test_stacked_is_alone(config: Make, changes: dict[str, object]) -> None:
    data = batches()
    recipes = [recipe(config(**changes, seed=seed)) for seed in range(len(WEIGHTS))]
    together = Stack(recipes)
    for x in data:
        together.step(x)
    for number, one in enumerate(recipes):
        state = fresh_state(one, initial_params(one))
        for x in data:
            train_step(one, state, x[number])
        for name, value in state.all_params.items():
            torch.testing.assert_close(together.params[name][number], value.detach(), rtol=1e-4, atol=1e-5)
        assert torch.equal(together.state.tokens_since_fired[number], state.tokens_since_fired)


def test_each_run_has_its_own_weight_and_share(config: Make) -> None:
    x = batches()[0]
    recipes = [recipe(config(penalties=[{"name": "l1", "weight": weight}])) for weight in WEIGHTS]
    shares = Stack(recipes).measure(x)
    for number, one in enumerate(recipes):
        state = fresh_state(one, initial_params(one))
        alone = measure(one, state, step_loss(one, state, x[number]))
        for name, norm in alone.gradient_norms.items():
            assert shares.gradient_norms[name][number].item() == pytest.approx(norm, rel=1e-4)
    override = {"l1.weight": torch.tensor([1.0, 1.0, 1.0])}
    equal = Stack(recipes).measure(x, override).gradient_norms["l1"] / shares.gradient_norms["l1"]
    torch.testing.assert_close(equal, 1 / torch.tensor(WEIGHTS), rtol=1e-4, atol=0)


def test_runs_of_other_structure_are_refused(config: Make) -> None:
    wide = recipe(config(sae={"name": "relu", "d_sae": 48}))
    with pytest.raises(ConfigError, match="2 structures"):
        Stack([recipe(config()), wide])
    pairs = [{"name": "topk_orthogonality", "weight": 1.0, "pairs_per_latent": number} for number in (1, 2)]
    with pytest.raises(ConfigError, match="2 structures"):  # states of two sizes
        Stack([recipe(config(penalties=[penalty])) for penalty in pairs])
    targets = [{"name": "l1", "weight": {"steer": "l0", "to": to, "start": 0.3}} for to in (5.0, 8.0)]
    with pytest.raises(ConfigError, match="2 structures"):  # one controller steers the whole stack
        Stack([recipe(config(penalties=[penalty])) for penalty in targets])
    with pytest.raises(ConfigError, match="not stacked"):
        Stack([recipe(config(dead={"resample_steps": 5}))])
