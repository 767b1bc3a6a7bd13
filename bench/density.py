"""The density below which a sparse step is faster, by shape: the thresholds of saepipe/train/step/density.py.

    python bench/density.py [--steps 5]

The SAE is a relu whose biases set the share of active entries. Dense and sparse steps take turns on the same rows, at
several shapes. Prints the speed of the sparse step relative to the dense one. Writes results/density.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import asdict

import torch
from record import write_result

from saepipe.train.config import TrainConfig
from saepipe.train.step.allocator import keep_freed_memory
from saepipe.train.step.density import THRESHOLDS
from saepipe.train.step.state import Recipe, fresh_state, initial_params
from saepipe.train.step.step import train_step

CLAIM = "A sparse step is faster below a density of about 10 %, for shapes of at least 2e8 multiplications per product"
SHAPES = ((512, 4096, 2048), (2304, 4096, 512), (768, 16384, 512), (128, 1024, 1024), (64, 1024, 512), (64, 256, 256))
DENSITIES = (0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each kind")
    args = parser.parse_args()
    keep_freed_memory()
    by_shape = []
    for d_in, d_sae, batch in SHAPES:
        ratios = {str(density): speedup(d_in, d_sae, batch, density, args.steps) for density in DENSITIES}
        by_shape.append({"d_in": d_in, "d_sae": d_sae, "batch": batch, "times as fast": ratios})
        listed = "  ".join(f"{density}: {ratio:.2f}" for density, ratio in ratios.items())
        print(f"{d_in:5} x {d_sae:5}, batch {batch:4}: {listed}", flush=True)
    rule = asdict(THRESHOLDS["cpu", "float32"])
    write_result("density", CLAIM, {"rule": rule, "sparse to dense, by density": by_shape})


def speedup(d_in: int, d_sae: int, batch: int, density: float, num_steps: int) -> float:
    """Returns the median seconds of a dense step divided by those of a sparse one."""
    raw = {"cache": "none", "sae": {"name": "relu", "d_sae": d_sae}, "penalties": [{"name": "l1", "weight": 0.1}]}
    raw |= {"steps": 10_000, "batch_size": batch, "optimizer": {"lr": 1e-12}}
    cpu = torch.device("cpu")
    recipe = Recipe(TrainConfig.parse(raw).resolved(hook="none", num_rows=batch, device=cpu), d_in, 1.0, cpu)
    x = torch.randn(batch, d_in, generator=torch.Generator().manual_seed(0))
    params = initial_params(recipe)
    pre_acts = recipe.config.sae.pre_acts(params, x[:64]).flatten().sort().values
    params["b_enc"] -= pre_acts[int((1 - density) * len(pre_acts))]
    state = fresh_state(recipe, params)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(num_steps + 1):
        for sparse in seconds:
            state.sparse, state.step = sparse, 1  # a step that does not check the density
            began = time.perf_counter()
            train_step(recipe, state, x)
            if number:
                seconds[sparse].append(time.perf_counter() - began)
    return statistics.median(seconds[False]) / statistics.median(seconds[True])


if __name__ == "__main__":
    main()
