"""Stability of the toy's SAEs over five seeds, by length of training, and the bounds of a matching too wide to assign.

    python bench/stability.py [--folder FOLDER] [--widest 65536]

The harvest and the SAEs are those of the tutorial's baseline (d_sae 512, steered to an L0 of 10), trained for 1 step,
50 steps and the tutorial's 1,000. After one step the dictionaries are still random: PW-MCC must not be above chance.
The decoder is also compared with that of another seed behind any rotation at all, which chance must be sharper than.
The second table matches pairs of dictionaries of which half are the same latents with noise, in d_in 64: the lower and
the upper bound beyond `max_assigned`, and the best assignment where this still takes seconds. Writes
results/stability.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from record import write_result
from torch.nn.functional import normalize

from saepipe.data.config.yaml_file import read_yaml
from saepipe.evaluate.metrics.stability.metric import Stability
from saepipe.evaluate.run import evaluate
from saepipe.evaluate.stats.one_to_one import Cosines, match_one_to_one
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.rundir.load import load

STEPS, SEEDS = (1, 50, 1000), (0, 1, 2, 3, 4)
CONFIGS = Path(__file__).parents[1] / "saepipe" / "data" / "toy" / "configs"
D_IN, ASSIGNED, WIDEST_EXACT = 64, 2048, 8192
KINDS = ("pw_mcc", "pw_mcc_weighted", "pw_mcc_encoder", "pw_mcc_activation", "pw_mcc_activation_weighted")
FOUND = ("frac_in_all_seeds_over_70", "frac_in_all_seeds_over_70_weighted", "frac_in_all_seeds_over_90")


def over_seeds(cache: Path, steps: int, folder: Path) -> dict[str, Any]:
    """Trains the seeds and returns each figure over them, beside chance, and the number of living latents."""
    config = dict(read_yaml(CONFIGS / "train.yaml")[0])
    for key in ("variants", "primary_metrics"):
        config.pop(key)
    config |= {"cache": str(cache), "seeds": SEEDS, "steps": steps, "log_every": min(50, steps), "device": "cpu"}
    runs = train(TrainConfig.parse(config), folder)
    metric = {"name": "stability"}
    paths = evaluate(runs, {"metrics": [metric], "features": None, "device": "cpu"})
    results = [json.loads(path.read_text())["saepipe"] for path in paths]
    figures = results[0]["over_seeds"]
    rows = {
        key: {"value": figures[key], "above_random": figures[f"{key}_above_random"]}
        | {"above_flipped": figures[f"{key}_above_flipped"]}
        for key in (*KINDS, *FOUND)
    }
    warned = sum(bool(result["warnings"]) for result in results)
    alive = [result["counts"]["alive"] for result in results]
    rotated = behind_any_rotation(runs)
    return {"alive": alive, "runs_with_a_warning": warned, "pw_mcc_behind_any_rotation": rotated, **rows}


def behind_any_rotation(runs: Sequence[Path]) -> float:
    """Returns the decoder PW-MCC of each seed with the next one, whose rows are rotated by a random orthogonal map."""
    rng, decoders = torch.Generator().manual_seed(0), []
    for run in runs:
        result = json.loads((run / "eval" / "stability.json").read_text())
        alive = torch.tensor([latent["density"] > 0 for latent in result["eval_result_details"]])
        decoders.append(normalize(load(run).W_dec.detach()[alive], dim=1))
    d_in, d_sae = decoders[0].shape[1], len(alive)
    means = []
    for ours, theirs in pairwise(decoders):
        rotation, _ = torch.linalg.qr(torch.randn(d_in, d_in, generator=rng))
        means.append(float(match_one_to_one(Cosines(ours, theirs @ rotation), d_sae).scores.mean()))
    return fmean(means)


def bounds(widest: int) -> Iterator[dict[str, float]]:
    """Yields the mean cosine of matchings of half-shared dictionaries, by width."""
    for width in (ASSIGNED, 2 * ASSIGNED, WIDEST_EXACT, 65_536):
        if width > widest:
            return
        rng = torch.Generator().manual_seed(width)
        ours, theirs = (normalize(torch.randn(width, D_IN, generator=rng), dim=1) for _ in range(2))
        half = ours[: width // 2] + 0.02 * torch.randn(width // 2, D_IN, generator=rng)
        theirs[: width // 2] = normalize(half, dim=1)
        scores = Cosines(ours, theirs[torch.randperm(width, generator=rng)])
        bounded = match_one_to_one(scores, ASSIGNED)
        row = {"width": width, "lower": float(bounded.scores.mean()), "upper": bounded.upper / width}
        if width <= WIDEST_EXACT:
            row["best"] = float(match_one_to_one(scores, width).scores.mean())
        print(row, flush=True)
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keeps cache and runs here (default: a temporary folder)")
    parser.add_argument("--widest", type=int, default=65_536, help="the widest dictionaries that are matched")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        cache = harvest(HarvestConfig.load(CONFIGS / "harvest.yaml"), folder / "cache").path
        by_steps = {}
        for steps in STEPS:
            by_steps[f"steps_{steps}"] = over_seeds(cache, steps, folder / f"steps-{steps}")
            print(steps, json.dumps(by_steps[f"steps_{steps}"], indent=1), flush=True)
    claim = "untrained SAEs agree by chance, and trained ones above it; a wide matching lies between its bounds"
    settings = {"seeds": SEEDS, "metric": Stability().to_dict(), "max_assigned_of_bounds": ASSIGNED}
    write_result("stability", claim, {**settings, **by_steps, "bounds": list(bounds(args.widest))})


if __name__ == "__main__":
    main()
