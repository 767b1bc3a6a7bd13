"""SynthSAEBench (arXiv 2602.14687): the published rows, and rows of pair penalties and of frozen parts.

    python bench/synthbench.py [--size cpu|full] [--arms NAME...] [--seeds 1] [--world FOLDER] [--device cuda]
    python bench/synthbench.py --size cpu --table
    python bench/synthbench.py --hours

`full` is the benchmark: 16,384 features in 768 dimensions, 4,096 latents, 200M samples in batches of 1,024, Adam at
3e-4. `cpu` is a world by the same recipe with a sixteenth of the features, and 1M samples in batches of 256 at a higher
rate; its figures compare its own rows, and nothing else. A row is a pure function of its settings and seed: an
interrupted command goes on with the first row that results/synthbench_<size>.json lacks. `--world` reads SAELens'
files in place of our world. Latents are chosen as in training, over batches of 1,024, as in the published evaluation.
`--hours` tells what `full` would take on a CPU, from the seconds of the rows of `cpu` and the operations of both.
The row `probes` has labels: a linear probe for each of the most frequent features, as many as there are latents.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from record import RESULTS, write_result
from torch.nn.functional import binary_cross_entropy_with_logits

from saepipe.data.config.base import fingerprint
from saepipe.data.synthetic import CopulaWorld, draw_copula, read_saelens_world
from saepipe.evaluate.validate.synthbench_rows import PUBLISHED, SIZES, Raw, Size, published_rows, steered, training
from saepipe.evaluate.validate.synthbench_training import (
    HELD_OUT,
    MEASURED_AT_ONCE,
    activation_scale,
    batches,
    measure_on_world,
    train_on_world,
)

CLAIM = "SAEs of every architecture and pair penalty on SynthSAEBench's world, by its metrics"
COLUMNS = ("f1", "mcc", "uniqueness", "explained_variance", "l0", "dead")
PROBES = "probes"
PAIRED = ("l1", "batch_topk", "matryoshka")
"""Rows to which pair penalties are added."""

PENALTIES: dict[str, Raw] = {
    "ortsae": {"name": "ortsae", "weight": 0.3},
    "c2r": {"name": "c2r", "weight": 1.0},
    "topk_orthogonality": {"name": "topk_orthogonality", "select": "cosine", "fraction": 0.01, "weight": 2.2},
    "absorption": {"name": "absorption", "ratio": "suppression", "tau": 0.1, "weight": 1.8},
    "balance": {"name": "balance", "weight": 1.0},
    "random_pairs": {"name": "random_pairs", "weight": 1.0},
}
"""With the middle weights of `saepipe validate`'s arms; random pairs are the placebo."""


def arms(size: Size) -> dict[str, Raw]:
    """Returns the parts of every row's training config that are its own, by name."""
    published = published_rows(size)
    rows = published | {PROBES: {}}
    for base in PAIRED:
        raw = published[base]
        rows |= {
            f"{base} + {name}": raw | {"penalties": [*raw["penalties"], penalty]} for name, penalty in PENALTIES.items()
        }
    for part in ("decoder", "encoder", "soft_decoder"):
        rows[f"batch_topk, {part} frozen"] = published["batch_topk"] | {"freeze": part}
    for name in ("tanh", "log"):
        rows[name] = published["l1"] | {"penalties": [steered(name, size.l0)]}
    return rows


def main() -> None:
    args = arguments()
    size, name = SIZES[args.size], f"synthbench_{args.size}"
    rows = kept_rows(name)
    if args.table:
        print_table(rows, args.size)
        return
    if args.hours:
        print_hours(kept_rows("synthbench_cpu"))
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
    parser.add_argument("--hours", action="store_true", help="print the hours of the full size on a CPU, and end")
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


def sae_row(size: Size, world: CopulaWorld, raw: Raw) -> Raw:
    """Trains one SAE and measures it."""
    started = time.perf_counter()
    config, params = train_on_world(size, world, raw)
    trained = time.perf_counter() - started
    return {**measure_on_world(size, world, config, params).to_dict(), "seconds": round(trained, 1)}


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


def print_hours(rows: list[Raw]) -> None:
    """Prints the hours of each published row at full size, by its fastest row at the CPU size and the operations."""
    for arm in PUBLISHED:
        seconds = min(row["seconds"] for row in rows if row["arm"] == arm)
        full, small = (operations(SIZES[size], arm) for size in ("full", "cpu"))
        print(f"{arm:18} {seconds:5.1f} s x {full / small:8,.0f} = {seconds * full / small / 3600:6,.0f} hours per SAE")


def operations(size: Size, arm: str) -> float:
    """Returns those of a row's matrix products: two and their four gradients, or more with the steps of a pursuit."""
    sae = published_rows(size)[arm]["sae"]
    products = 5 + sae["k"] if sae["name"] == "matching_pursuit" else 6
    return 2.0 * products * size.bench.d_in * size.d_sae * size.num_samples


def cell(values: list[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.3f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
