"""A jumprelu with different bandwidths and first thresholds, at one target L0 on the reference world.

python bench/jumprelu.py --seeds 3
"""

from __future__ import annotations

import argparse
from statistics import fmean
from typing import Any

import torch
from record import write_result

from saepipe.data.synthetic import World, draw
from saepipe.evaluate.validate.truth_metrics import measure
from saepipe.train.config import TrainConfig
from saepipe.train.seeds import generator
from saepipe.train.stacked.stack import Stack
from saepipe.train.step.state import Recipe, fresh_state, initial_params

PAIRS = [(0.06, 0.06), (0.06, 0.5), (0.3, 0.5), (1.0, 0.1), (1.0, 0.25), (1.0, 0.5), (1.0, 1.0), (2.0, 0.5)]
"""(bandwidth, initial_threshold); the first bandwidth is the paper's 0.001 in our units."""

D_SAE, L0, STEPS, BATCH, POOL = 64, 3.2, 2000, 256, 65_536


def config(bandwidth: float, threshold: float, seed: int) -> TrainConfig:
    raw: dict[str, Any] = {
        "cache": "none",
        "sae": {"name": "jumprelu", "d_sae": D_SAE, "bandwidth": bandwidth, "initial_threshold": threshold},
        "penalties": [{"name": "l0", "weight": 0.03, "warmup": 0.2, "target": L0, "bandwidth": bandwidth}],
        "steps": STEPS,
        "batch_size": BATCH,
        "optimizer": {"lr": 3e-3},
        "seed": seed,
        "device": "cpu",
    }
    return TrainConfig.parse(raw).resolved(hook="world", num_rows=POOL, device=torch.device("cpu"))


def train(bandwidth: float, threshold: float, num_seeds: int) -> dict[str, float]:
    """Trains one SAE per seed, each on its own world; returns means over the seeds, on held-out tokens."""
    truths = [World().truth(seed) for seed in range(num_seeds)]
    pools = torch.stack([draw(truth, seed, 0, POOL).x for seed, truth in enumerate(truths)])
    scale = float((pools.shape[2] / pools.square().sum(2).mean()).sqrt())
    recipes = [
        Recipe(config(bandwidth, threshold, seed), pools.shape[2], scale, torch.device("cpu"))
        for seed in range(num_seeds)
    ]
    stack = Stack([(recipe, fresh_state(recipe, initial_params(recipe))) for recipe in recipes])
    for step in range(STEPS):
        rows = torch.randint(POOL, (BATCH,), generator=generator(0, "batches", step))
        stack.step(pools[:, rows] * scale)
    measured = []
    for seed, (recipe, truth) in enumerate(zip(recipes, truths, strict=True)):
        sae, params = recipe.config.sae.inference({name: value[seed] for name, value in stack.params.items()})
        params, heldout = sae.unscaled(params, scale), draw(truth, seed, 1, 8192)
        acts = sae.encode(params, heldout.x)
        measured.append(measure(truth, heldout, acts, params["W_dec"], sae.decode(params, acts)).to_dict())
    return {key: fmean(figures[key] for figures in measured) for key in ("l0", "fvu", "mcc", "dead")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    num_seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    rows = []
    for bandwidth, threshold in PAIRS:
        rows.append({"bandwidth": bandwidth, "initial_threshold": threshold, **train(bandwidth, threshold, num_seeds)})
        print("  ".join(f"{key} {value:.3g}" for key, value in rows[-1].items()), flush=True)
    claim = "a jumprelu on the reference world: similar results up to bandwidth 1; worse at 2, or first threshold 1"
    write_result("jumprelu", claim, {"seeds": num_seeds, "target_l0": L0, "rows": rows})


if __name__ == "__main__":
    main()
