"""Does the hedging degree (arXiv 2505.11756) tell an SAE too narrow for the features of a world that is known?

    python bench/hedging.py [--steps 1500] [--seeds 3]

In each world BatchTopK SAEs are trained with fewer latents than features, as many, and more. Each is widened by five
latents and trained on, as a run with `init.from` is; the degree is that of its old latents' movement. Beside it, the
same formula on two runs that share nothing, a narrow one and a wider one, matched by decoder cosine. The truth is the
mean over latents of the largest component along a feature that has no latent. Writes results/hedging.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from l0_proxy import BATCH, CORRELATED, HELD_OUT, OVERLAPPING, POOL, REFERENCE, fit, fresh_starts, recipes_of
from record import write_result
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.data.synthetic import World
from saepipe.evaluate.stats.hedging_degree import hedging_degree
from saepipe.evaluate.validate.trained_stacks import WorldData, world_data
from saepipe.train.sae.base import Params

CLAIM = "Widened SAEs tell one that is too narrow where features hardly overlap; in superposition nothing does"
ADDED = 5
WORLDS: dict[str, tuple[World, int, float]] = {
    "correlated": (CORRELATED, 50, 10.7),
    "independent": (CORRELATED.model_copy(update={"num_correlated": 0, "correlation": 0.0}), 50, 10.7),
    "reference": (REFERENCE, 64, 3.2),
    "overlapping": (OVERLAPPING, 64, 3.2),
}
"""World, its number of features, and k of an SAE with as many latents."""
WIDTHS = (0.8, 1.0, 1.2)
"""Latents over features."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name, (world, num_features, k) in WORLDS.items():
        sizes = (POOL, HELD_OUT, args.steps, BATCH, "mean", 4096)
        data = [world_data(world.model_dump_json(), seed, sizes) for seed in range(args.seeds)]
        results[name] = {"features": num_features, "by_d_sae": by_width(data, num_features, k, args.steps)}
        print(name, results[name], flush=True)
    write_result("hedging", CLAIM, {"steps": args.steps, "seeds": args.seeds, "added": ADDED, "worlds": results})


def by_width(data: list[WorldData], num_features: int, k: float, steps: int) -> dict[str, dict[str, list[float]]]:
    """Returns by number of latents the truth and both degrees, each by seed."""
    saes = {d: fitted(data, d, k_of(k, d, num_features), steps) for d in (int(w * num_features) for w in WIDTHS)}
    wider = dict(zip(saes, [*saes][1:], strict=False))
    figures = {}
    for d_sae, narrow in saes.items():
        widened = rows_of(fitted(data, d_sae + ADDED, k_of(k, d_sae + ADDED, num_features), steps, narrow))
        rows, others = rows_of(narrow), rows_of(saes[wider[d_sae]]) if d_sae in wider else []
        figures[str(d_sae)] = {
            "mixed_in": [mixed_in(own, d.truth.directions) for own, d in zip(rows, data, strict=True)],
            "widened": [hedging_degree(own, after) for own, after in zip(rows, widened, strict=True)],
            "two_runs": [degree_of_two(own, other) for own, other in zip(rows, others, strict=False)],
        }
    return {d_sae: {key: [round(value, 4) for value in of[key]] for key in of} for d_sae, of in figures.items()}


def k_of(k: float, d_sae: int, num_features: int) -> float:
    return k * min(1.0, d_sae / num_features)


def fitted(data: list[WorldData], d_sae: int, k: float, steps: int, widened: Sequence[Params] = ()) -> list[Params]:
    """Returns the parameters of one SAE per seed; with `widened`, they start from these and further latents."""
    recipes = recipes_of(data, d_sae, k, steps)
    starts = fresh_starts(recipes, data)
    for start, before in zip(starts, widened, strict=False):
        for key, value in start.items():
            value[tuple(slice(0, size) for size in before[key].shape)] = before[key]
    return fit(recipes, starts, data, steps)


def rows_of(saes: Sequence[Params]) -> list[Tensor]:
    return [normalize(params["W_dec"], dim=1) for params in saes]


def mixed_in(W_dec: Tensor, directions: Tensor) -> float:
    """Returns the mean over latents of the largest component along a feature that has no latent of its own."""
    if len(W_dec) >= len(directions):
        return 0.0
    own = torch.from_numpy(linear_sum_assignment(-(W_dec @ directions.T).numpy())[1])
    missing = torch.ones(len(directions), dtype=torch.bool).index_fill(0, own, value=False)
    return float(((W_dec - directions[own]) @ directions[missing].T).clamp_min(0).amax(1).mean())


def degree_of_two(narrow: Tensor, wide: Tensor) -> float:
    """Returns the degree as if the wide SAE were the narrow one, widened: its matched rows first, then the others."""
    own = torch.from_numpy(linear_sum_assignment(-(narrow @ wide.T).numpy())[1])
    added = torch.ones(len(wide), dtype=torch.bool).index_fill(0, own, value=False)
    return hedging_degree(narrow, torch.cat([wide[own], wide[added]]))


if __name__ == "__main__":
    main()
