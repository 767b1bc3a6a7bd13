"""SAEs with the settled density of trained ones, but without training: a chosen number of active latents per token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gpu_parts.plain import BANDWIDTH, L0, L1
from gpu_parts.scale import Scale
from torch import Tensor

from saepipe.train.config import TrainConfig
from saepipe.train.sae.base import Params
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params

ARCHITECTURES = ("relu", "topk", "jumprelu")
LR = 1e-12  # every step does all its work and leaves the density unchanged
BISECTIONS = 30


@dataclass(frozen=True)
class Settled:
    """An architecture at one width, with parameters of a settled density."""

    name: str
    d_sae: int
    params: Params
    scale: float  # the SAE is trained on scale * row
    l0: float


def settle(scale: Scale, name: str, d_sae: int, rows: Tensor) -> Settled:
    """Returns random weights with `scale.active` active latents per token and `b_dec` the mean of `rows` (batch, d_in).

    One threshold sets the density: -b_enc of a relu, `threshold` of a jumprelu; a topk needs none.
    """
    factor = float(scale.d_in**0.5 / torch.linalg.vector_norm(rows.float(), dim=1).square().mean().sqrt())
    recipe = recipe_of(scale, name, d_sae, factor, "never", seed=0)
    x = recipe.scaled(rows)
    params = {key: value.to(scale.device) for key, value in initial_params(recipe).items()}
    params["b_dec"] = x.mean(0)
    sae = recipe.config.sae
    with torch.no_grad():
        level = threshold_at(sae.pre_acts(params, x, recipe.dtype), scale.active / d_sae)
        if name == "relu":
            params["b_enc"] = torch.full_like(params["b_enc"], -level)
        elif name == "jumprelu":
            params["threshold"] = torch.full_like(params["threshold"], level)
        acts = sae.encode(params, x, recipe.dtype)
    return Settled(name, d_sae, params, factor, float((acts > 0).sum() / len(x)))


def threshold_at(pre_acts: Tensor, share: float) -> float:
    """Returns the value that `share` of the entries exceed, by bisection, since there are too many entries to sort."""
    low, high = 0.0, float(pre_acts.max())
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if float((pre_acts > middle).float().mean()) > share:
            low = middle
        else:
            high = middle
    return high


def recipe_of(
    scale: Scale,
    name: str,
    d_sae: int,
    factor: float,
    sparse_steps: str,
    seed: int,
    dtype: str = "auto",
    screen: str = "auto",
) -> Recipe:
    """Returns the recipe of a run whose steps are all sparse or all dense."""
    saes: dict[str, dict[str, Any]] = {
        "relu": {"sae": {"name": "relu"}, "penalties": [{"name": "l1", "weight": L1}]},
        "topk": {"sae": {"name": "topk", "k": scale.active}},
        "jumprelu": {
            "sae": {"name": "jumprelu", "bandwidth": BANDWIDTH},
            "penalties": [{"name": "l0", "weight": L0, "bandwidth": BANDWIDTH}],
        },
    }
    raw = {**saes[name], "cache": "none", "steps": 1_000_000, "batch_size": scale.batch, "seed": seed}
    raw |= {"sae": {**raw["sae"], "d_sae": d_sae}, "optimizer": {"lr": LR}, "sparse_steps": sparse_steps}
    raw |= {"compute_dtype": dtype, "screen": screen}
    config = TrainConfig.parse(raw).resolved(hook=scale.hook, num_rows=scale.cache_rows, device=scale.device)
    return Recipe(config, scale.d_in, factor, scale.device)


def new_run(
    scale: Scale, settled: Settled, sparse_steps: str, seed: int, dtype: str = "auto", screen: str = "auto"
) -> tuple[Recipe, TrainState]:
    """Returns a run at step 0 with the settled parameters."""
    recipe = recipe_of(scale, settled.name, settled.d_sae, settled.scale, sparse_steps, seed, dtype, screen)
    return recipe, fresh_state(recipe, settled.params)
