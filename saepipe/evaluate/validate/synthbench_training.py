"""One SAE of SynthSAEBench: trained on an endless stream of the world's tokens, measured on held-out ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from saepipe.data.device import pick_device
from saepipe.data.synthetic import CopulaTokens, CopulaWorld, draw_copula, read_saelens_world
from saepipe.evaluate.validate.config import SynthBenchConfig
from saepipe.evaluate.validate.synthbench_metrics import SynthBenchMetrics, SynthBenchSums
from saepipe.evaluate.validate.synthbench_rows import Raw, Size
from saepipe.train.config import TrainConfig
from saepipe.train.sae.base import Params
from saepipe.train.step.state import Recipe, fresh_state, initial_params
from saepipe.train.step.step import train_step

HELD_OUT = 1_000_000
"""Seed of the stream of held-out tokens, which is the same for every SAE."""
MEASURED_AT_ONCE = 1024
"""Held-out tokens per batch, over which a BatchTopK chooses its latents as the published evaluation does."""
SCALED_BY = 16_384
"""Tokens of which the activations' scale is measured."""


def make_world(size: Size, config: SynthBenchConfig) -> CopulaWorld:
    """Returns the world of the config's files, or that of the size, on the config's device."""
    world = read_saelens_world(config.files) if config.files else size.bench.world()
    return world.to(pick_device(config.device))


def train_on_world(
    size: Size, world: CopulaWorld, raw: Raw, advance: Callable[[int], None] = lambda _: None
) -> tuple[TrainConfig, Params]:
    """Trains one SAE on the stream of its seed: a pure function of its arguments, for one kind of device.

    Returns:
        Its resolved config, and its parameters of training on raw activations. `advance` is told tokens.
    """
    device = world.directions.device
    config = TrainConfig.parse(raw).resolved(hook="world", num_rows=size.num_samples, device=device)
    recipe = Recipe(config, world.d_in, activation_scale(world), device)
    state = fresh_state(recipe, initial_params(recipe))
    for batch in batches(size, world, config.seed):
        train_step(recipe, state, batch.x)
        advance(len(batch.x))
    return config, recipe.in_raw_units({name: value.detach() for name, value in state.all_params.items()})


def activation_scale(world: CopulaWorld) -> float:
    """Returns the factor that makes E|x|^2 = d_in."""
    return float((world.d_in / draw_copula(world, HELD_OUT, 0, SCALED_BY).x.square().sum(1).mean()).sqrt())


def batches(size: Size, world: CopulaWorld, seed: int) -> Iterator[CopulaTokens]:
    """Yields the training batches of one seed."""
    for first in range(0, size.steps, size.batches_at_once):
        tokens = draw_copula(world, seed, first // size.batches_at_once, size.batches_at_once * size.batch_size)
        yield from tokens.split(size.batch_size)[: size.steps - first]


@torch.no_grad()
def measure_on_world(size: Size, world: CopulaWorld, config: TrainConfig, params: Params) -> SynthBenchMetrics:
    """Returns the metrics of an SAE, `params` on raw activations, that chooses its latents as in training."""
    sae, sums = config.sae.ended(), SynthBenchSums(params["W_dec"], world.directions)
    for number in range(1, 1 + size.num_held_out // MEASURED_AT_ONCE):
        tokens = draw_copula(world, HELD_OUT, number, MEASURED_AT_ONCE)
        acts = sae.activate_training(params, sae.pre_acts(params, tokens.x))
        sums.add(tokens, acts, sae.decode(params, acts))
    return sums.metrics()
