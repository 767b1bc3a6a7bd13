"""The optimiser step of stacked runs, compared with the step of a single run."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch

from saepipe.train.config_sections import OptimizerConfig
from saepipe.train.sae.base import Params
from saepipe.train.stacked.optim import clip_each, norm_each, update_each
from saepipe.train.stacked.slices import shared
from saepipe.train.step.optim import initial_moments, update

pytestmark = pytest.mark.quick

NUM_RUNS, D_IN, D_SAE = 4, 5, 7


def random_tensors(rng: torch.Generator, *lead: int) -> Params:
    shapes = {"W_enc": (D_IN, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)}
    return {name: torch.randn(*lead, *shape, generator=rng) for name, shape in shapes.items()}


@pytest.mark.parametrize("lrs", [(0.1,) * 4, (0.1, 0.1, 0.02, 0.1), (0.1, 0.02, 0.03, 0.04)])
@pytest.mark.parametrize("clip", [None, 2.0])
def test_each_run_makes_the_step_that_it_makes_alone(lrs: tuple[float, ...], clip: float | None) -> None:
    config = OptimizerConfig(clip=clip)
    rng = torch.Generator().manual_seed(0)
    runs = [{name: value.requires_grad_() for name, value in random_tensors(rng).items()} for _ in range(NUM_RUNS)]
    alone = [{name: value.detach().clone().requires_grad_() for name, value in run.items()} for run in runs]
    own_moments, moments_alone = [[initial_moments(run) for run in group] for group in (runs, alone)]
    moments, params = shared(own_moments), shared(runs)
    for _ in range(5):
        gradients = random_tensors(rng, NUM_RUNS)
        for number, run in enumerate(alone):
            own = {name: value[number].clone() for name, value in gradients.items()}
            update(run, own, moments_alone[number], lrs[number], config)
        rates = [(len(list(stretch)), lr) for lr, stretch in groupby(lrs)]
        update_each(params, gradients, moments, rates, config)
    for number, run in enumerate(runs):
        for name, value in run.items():
            torch.testing.assert_close(value, alone[number][name], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(own_moments[number][name], moments_alone[number][name], rtol=1e-5, atol=1e-6)


def test_a_gradient_is_clipped_by_its_own_runs_norm() -> None:
    gradients = random_tensors(torch.Generator().manual_seed(1), NUM_RUNS)
    gradients = {
        name: value * torch.tensor([0.01, 1.0, 0.02, 5.0]).view(-1, *(1,) * (value.dim() - 1))
        for name, value in gradients.items()
    }
    whole = torch.cat([value.flatten(1) for value in gradients.values()], dim=1)
    norms = whole.square().sum(1).sqrt()
    torch.testing.assert_close(norm_each(gradients), norms)
    assert (norms > 1).tolist() == [False, True, False, True]
    clip_each(gradients, 1.0)
    clipped = torch.cat([value.flatten(1) for value in gradients.values()], dim=1)
    torch.testing.assert_close(clipped, whole / norms.clamp_min(1).unsqueeze(1))
