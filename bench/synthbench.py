"""SynthSAEBench (arXiv 2602.14687): the published rows that saepipe can train, and rows of pair penalties.

    python bench/synthbench.py [--size cpu|full] [--arms NAME...] [--seeds 1] [--world FOLDER] [--device cuda]
    python bench/synthbench.py --size cpu --table

`full` is the benchmark: 16,384 features in 768 dimensions, 4,096 latents, 200M samples in batches of 1,024, Adam at
3e-4. `cpu` is a world by the same recipe with a sixteenth of the features, and 1M samples in batches of 256 at a higher
rate; its figures compare its own rows, and nothing else. A row is a pure function of its settings and seed: an
interrupted command goes on with the first row that results/synthbench_<size>.json lacks. `--world` reads SAELens'
files in place of our world. Latents are chosen as in training, over batches of 1,024, as in the published evaluation.
The row `probes` has labels: a linear probe for each of the most frequent features, as many as there are latents.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, write_result
from torch.nn.functional import binary_cross_entropy_with_logits

from saepipe.data.config.base import fingerprint
from saepipe.data.synthetic import CopulaTokens, CopulaWorld, SynthBench, draw_copula, read_saelens_world
from saepipe.evaluate.validate.synthbench_metrics import SynthBenchSums
from saepipe.train.config import TrainConfig
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params
from saepipe.train.step.step import train_step

CLAIM = "SAEs of every architecture and pair penalty on SynthSAEBench's world, by its metrics"
HELD_OUT = 1_000_000
"""Seed of the stream of held-out tokens, which is the same for every row."""
MEASURED_AT_ONCE = 1024
"""Held-out tokens per batch, over which a BatchTopK chooses its latents as the published evaluation does."""
SCALED_BY = 16_384
"""Tokens of which the activations' scale is measured."""
COLUMNS = ("f1", "mcc", "uniqueness", "explained_variance", "l0", "dead")
PROBES = "probes"
Raw = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """The world, and how long SAEs are trained on it."""

    bench: SynthBench
    d_sae: int
    l0: float  # true L0 of the d_sae most frequent features
    groups: tuple[int, ...]  # of the Matryoshka
    batch_size: int
    lr: float
    num_samples: int
    num_held_out: int
    batches_at_once: int  # sampled together

    @property
    def steps(self) -> int:
        return self.num_samples // self.batch_size


SIZES = {
    "full": Size(
        SynthBench(),
        d_sae=4096,
        l0=25,
        groups=(128, 512, 2048),
        batch_size=1024,
        lr=3e-4,
        num_samples=200_000_000,
        num_held_out=1_000_000,
        batches_at_once=32,
    ),
    "cpu": Size(
        SynthBench(num_features=1024, d_in=128, num_roots=8, rates=(0.3, 1e-3)),
        d_sae=256,
        l0=4.2,
        groups=(8, 32, 128),
        batch_size=256,
        lr=1e-3,
        num_samples=1_000_000,
        num_held_out=100_000,
        batches_at_once=32,
    ),
}

PUBLISHED = {
    "batch_topk": (0.7316, 0.7574, 0.9837, 0.7923),
    "matryoshka": (0.8793, 0.7927, 0.9987, 0.7792),
    "l1": (0.5562, 0.6039, 0.8976, 0.7654),
    "jumprelu": (0.7317, 0.7527, 0.9885, 0.7951),
}
"""F1, MCC, uniqueness and explained variance of the `full` size at L0 25 (SAELens' docs/synth_sae_bench.md)."""

PENALTIES: dict[str, Raw] = {
    "ortsae": {"name": "ortsae", "weight": 0.3},
    "c2r": {"name": "c2r", "weight": 1.0},
    "topk_orthogonality": {"name": "topk_orthogonality", "select": "cosine", "fraction": 0.01, "weight": 2.2},
    "absorption": {"name": "absorption", "ratio": "suppression", "tau": 0.1, "weight": 1.8},
    "balance": {"name": "balance", "weight": 1.0},
    "random_pairs": {"name": "random_pairs", "weight": 1.0},
}
"""With the middle weights of `saepipe validate`'s arms; random pairs are the placebo."""
AUXK = {"name": "auxk", "weight": 0.2}
"""SAELens' coefficient of 1 is not divided by the error, which is a fifth of E|x|^2 here."""


def arms(size: Size) -> dict[str, Raw]:
    """Returns the parts of every row's training config that are its own, by name."""

    def steered(penalty: str) -> Raw:
        return {"name": "l0_target", "l0": size.l0, "penalty": {"name": penalty, "weight": 1.0}}

    topk = {"k": size.l0, "d_sae": size.d_sae}
    bases: dict[str, Raw] = {
        "l1": {"sae": {"name": "relu", "d_sae": size.d_sae}, "penalties": [steered("l1")]},
        "batch_topk": {"sae": {"name": "batch_topk", **topk}, "penalties": [AUXK]},
        "matryoshka": {"sae": {"name": "matryoshka_batch_topk", "groups": size.groups, **topk}, "penalties": [AUXK]},
    }
    jumprelu = {"name": "jumprelu", "d_sae": size.d_sae, "bandwidth": 2.0, "initial_threshold": 0.5}
    to_l0 = {"name": "l0", "target": size.l0, "bandwidth": 2.0, "weight": 1.0}  # thresholds lag behind a weight
    rows = bases | {"jumprelu": {"sae": jumprelu, "penalties": [to_l0, AUXK]}, PROBES: {}}
    for base, raw in bases.items():
        rows |= {
            f"{base} + {name}": raw | {"penalties": [*raw["penalties"], penalty]} for name, penalty in PENALTIES.items()
        }
    for part in ("decoder", "encoder", "soft_decoder"):
        rows[f"batch_topk, {part} frozen"] = bases["batch_topk"] | {"freeze": part}
    for name in ("tanh", "log"):
        rows[name] = bases["l1"] | {"penalties": [steered(name)]}
    return rows


def main() -> None:
    args = arguments()
    size, name = SIZES[args.size], f"synthbench_{args.size}"
    rows = kept_rows(name)
    if args.table:
        print_table(rows, args.size)
        return
    world = None
    for identity, arm, config in wanted_rows(size, args):
        if identity in {row["identity"] for row in rows}:
            continue
        world = world or (read_saelens_world(args.world) if args.world else size.bench.world()).to(args.device)
        row = probes_row(size, world, config["seed"]) if arm == PROBES else sae_row(size, world, config)
        own = {"arm": arm, "seed": config["seed"]}
        rows = [kept for kept in rows if not own.items() <= kept.items()]  # of other settings
        rows.append({**own, "identity": identity, **row})
        write_result(name, CLAIM, {"size": repr(size), "device": str(args.device), "rows": rows})
        figures = "  ".join(f"{key} {row[key]:.4f}" for key in COLUMNS if key in row)
        print(f"{arm:32} seed {config['seed']}  {figures}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument("--arms", nargs="+", choices=arms(SIZES["cpu"]), help="names of rows; default: all")
    parser.add_argument("--seeds", type=int, default=1, help="seeds per row")
    parser.add_argument("--world", type=Path, help="folder that SAELens' SyntheticModel.save wrote")
    parser.add_argument("--device", type=torch.device, default=device)
    parser.add_argument("--table", action="store_true", help="print the rows that are done as Markdown, and end")
    return parser.parse_args()


def wanted_rows(size: Size, args: argparse.Namespace) -> Iterator[tuple[str, str, Raw]]:
    """Yields identity, name and training config of each row, seed by seed."""
    for seed in range(args.seeds):
        for arm, raw in arms(size).items():
            if arm in (args.arms or [arm]):
                config = training(size, raw, seed)
                yield fingerprint({"config": config, "size": repr(size), "world": str(args.world or "")}), arm, config


def kept_rows(name: str) -> list[Raw]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["rows"] if path.is_file() else []


def training(size: Size, raw: Raw, seed: int) -> Raw:
    """Returns a row's training config: SAELens' rate without warm-up or decay, and latents dead after 1,000 steps."""
    optimizer = {"lr": size.lr, "warmup": 0.0, "decay": 0.0, "clip": None}
    dead = {"after_tokens": min(1000 * size.batch_size, size.num_samples // 20)}
    common = {"cache": "none", "steps": size.steps, "batch_size": size.batch_size, "seed": seed}
    init = {"encoder_scale": 1.0}  # W_enc is the transpose of W_dec, as in SAELens
    return common | {"optimizer": optimizer, "init": init, "dead": dead, **raw}


def sae_row(size: Size, world: CopulaWorld, raw: Raw) -> Raw:
    """Trains one SAE on the endless stream of its seed, and measures it on held-out tokens."""
    started = time.perf_counter()
    device, seed = world.directions.device, raw["seed"]
    config = TrainConfig.parse(raw).resolved(hook="world", num_rows=size.num_samples, device=device)
    recipe = Recipe(config, world.d_in, activation_scale(world), device)
    state = fresh_state(recipe, initial_params(recipe))
    for batch in batches(size, world, seed):
        train_step(recipe, state, batch.x)
    trained = time.perf_counter() - started
    sums = measured(size, world, recipe, state)
    return {**sums.metrics().to_dict(), "seconds": round(trained, 1)}


def activation_scale(world: CopulaWorld) -> float:
    """Returns the factor that makes E|x|^2 = d_in."""
    return float((world.d_in / draw_copula(world, HELD_OUT, 0, SCALED_BY).x.square().sum(1).mean()).sqrt())


def batches(size: Size, world: CopulaWorld, seed: int) -> Iterator[CopulaTokens]:
    """Yields the training batches of one seed."""
    for first in range(0, size.steps, size.batches_at_once):
        tokens = draw_copula(world, seed, first // size.batches_at_once, size.batches_at_once * size.batch_size)
        yield from tokens.split(size.batch_size)[: size.steps - first]


@torch.no_grad()
def measured(size: Size, world: CopulaWorld, recipe: Recipe, state: TrainState) -> SynthBenchSums:
    sae, params = recipe.config.sae, recipe.in_raw_units({k: v.detach() for k, v in state.all_params.items()})
    sums = SynthBenchSums(params["W_dec"], world.directions)
    for number in range(1, 1 + size.num_held_out // MEASURED_AT_ONCE):
        tokens = draw_copula(world, HELD_OUT, number, MEASURED_AT_ONCE)
        acts = sae.activate_training(params, sae.pre_acts(params, tokens.x))
        sums.add(tokens, acts, sae.decode(params, acts))
    return sums


def probes_row(size: Size, world: CopulaWorld, seed: int) -> Raw:
    """Fits logistic probes of the first d_sae features, which are about the most frequent, and measures their F1."""
    device, scale = world.directions.device, activation_scale(world)
    weights = torch.zeros(world.d_in, size.d_sae, device=device, requires_grad=True)
    bias = torch.zeros(size.d_sae, device=device, requires_grad=True)
    adam = torch.optim.Adam([weights, bias], lr=size.lr)
    for batch in batches(size, world, seed):
        on = batch.on_mask(world.num_features)[:, : size.d_sae]
        loss = binary_cross_entropy_with_logits(scale * batch.x @ weights + bias, on.float(), reduction="sum")
        adam.zero_grad()
        loss.backward()
        adam.step()
    tp = fp = fn = torch.zeros(size.d_sae, device=device)
    for number in range(1, 1 + size.num_held_out // MEASURED_AT_ONCE):
        tokens = draw_copula(world, HELD_OUT, number, MEASURED_AT_ONCE)
        on = tokens.on_mask(world.num_features)[:, : size.d_sae]
        found = scale * tokens.x @ weights.detach() + bias.detach() > 0
        tp, fp, fn = tp + (found & on).sum(0), fp + (found & ~on).sum(0), fn + (~found & on).sum(0)
    return {"f1": float((2 * tp / (2 * tp + fp + fn)).nan_to_num(0.0).mean())}


def print_table(rows: list[Raw], size: str) -> None:
    """Prints means over seeds, +- their standard deviation, and the published means beside them."""
    headings = (*COLUMNS, *(["published F1, MCC, uniqueness, explained variance"] if size == "full" else []))
    print(f"| row | seeds | {' | '.join(headings)} |\n|{'---|' * (2 + len(headings))}")
    for arm in dict.fromkeys(row["arm"] for row in rows):
        of_arm = [row for row in rows if row["arm"] == arm]
        cells = [arm, str(len(of_arm)), *(cell([row[key] for row in of_arm if key in row]) for key in COLUMNS)]
        if size == "full":
            cells.append(", ".join(f"{value:.4f}" for value in PUBLISHED.get(arm, ())) or "-")
        print(f"| {' | '.join(cells)} |")


def cell(values: list[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
