"""`balance` against the best pair penalties and random pairs, in worlds with and without overlapping children.

    python bench/balance.py [--seeds 5] [--only ARM...] [--out FOLDER]

Arms, worlds, sweeps, weights and the matched L0 are those of `saepipe validate`, which chooses weights on other seeds.
So is the placebo: as many random pairs as `balance` selects, steered to its share of the gradient. The last rows hold
the decoder at the true directions, or at these with each child made orthogonal to its parent, and train the encoder
alone: the FVU that goes with these directions. `--only` measures some rows and keeps the others. Writes
results/balance.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, write_result
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.data.synthetic import Truth, draw
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.stats.intervals import Estimate
from saepipe.evaluate.stats.l0_curves import Curve, difference, why_not_covered
from saepipe.evaluate.stats.paired_seeds import mean
from saepipe.evaluate.validate.arms import BASELINE, Arm, select_arms
from saepipe.evaluate.validate.config import Baseline, ValidateConfig
from saepipe.evaluate.validate.run import Setup, curves_of, train_placebos, train_setups
from saepipe.evaluate.validate.trained_stacks import HELD_OUT, TRAINED, StackTrainer
from saepipe.evaluate.validate.truth_metrics import measure

CLAIM = "balance has the absorption and MCC of the best pair penalties, whether children overlap their parents or not"
OURS = "balance"
RANDOM, HELD = "random pairs", "held decoder"
WEIGHTS = {OURS: 1.0, "ortsae": 0.3, "topk_orthogonality/cosine": 0.7, "absorption/suppression": 1.8}
"""As `saepipe validate` chooses them, on seeds from 1000."""
WORLDS: dict[Baseline, tuple[str, ...]] = {
    "relu": ("orthogonal", "overlapping", "siblings"),
    "batch_topk": ("orthogonal", "overlapping"),
}
METRICS = ("absorbed", "mcc", "fvu")
ROWS = (BASELINE.name, *WEIGHTS, RANDOM, HELD)
"""In the order of a table's rows."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, help="rows to measure")
    parser.add_argument("--out", type=Path, default=Path("runs/balance"), help="trained SAEs are kept here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = ValidateConfig(num_seeds=args.seeds, processes=1)
    rows = list(trained_rows(config, args.out, args.only))
    rows += oracle_rows(config) if HELD in args.only else []
    rows = sorted([*rows, *kept_rows(args.only)], key=place)
    write_result("balance", CLAIM, {"seeds": args.seeds, "weights": WEIGHTS, "rows": rows})


def kept_rows(measured: Collection[str]) -> list[dict[str, Any]]:
    """Returns the rows of an earlier call that are not measured now; `balance` itself always is."""
    path = RESULTS / "balance.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    return [row for row in rows if ROWS[place(row)[-1]] not in (OURS, *measured)]


def place(row: dict[str, Any]) -> tuple[bool, int, int, int]:
    """Returns where a row stands in the table: by baseline, world and arm; held decoders last."""
    held, worlds = row["arm"] not in ROWS, list(WORLDS["relu"])
    arm = ROWS.index(HELD if held else row["arm"])
    return held, list(WORLDS).index(row["baseline"]), worlds.index(row["world"]), arm


def trained_rows(config: ValidateConfig, out: Path, names: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yields one row per baseline, world and arm: means, and ours less theirs."""
    arms: dict[Arm, float | None] = {BASELINE: None} if BASELINE.name in names else {}
    arms |= {arm: WEIGHTS[arm.name] for arm in select_arms([name for name in WEIGHTS if name in (OURS, *names)])}
    with StackTrainer(config, out / "sweeps") as trainer:
        for baseline, worlds in WORLDS.items():
            setups = [Setup(arm, baseline, weight) for arm, weight in arms.items()]
            results = train_setups(trainer, config, setups, worlds, config.seeds, Silent())
            (ours,) = (setup for setup in setups if setup.arm.name == OURS)
            of_ours = [result for result in results if result.setup == ours]
            random = train_placebos(trainer, config, of_ours, Silent()) if RANDOM in names else []
            for world in worlds:
                curves = {setup.arm.name: curves_of(results, setup, world) for setup in setups}
                curves |= {RANDOM: curves_of(random, ours, world)} if random else {}
                yield from compared(curves, baseline, world, config.baselines[baseline].l0)


def compared(curves: Mapping[str, list[Curve]], baseline: str, world: str, l0: float) -> Iterator[dict[str, Any]]:
    ours = curves[OURS]
    for name, theirs in curves.items():
        row: dict[str, Any] = {"baseline": baseline, "world": world, "arm": name}
        if why := why_not_covered([*ours, *theirs], l0):
            yield shown(row | {"not compared": why})
        else:
            values = {key: plain(mean([curve.at(l0, key) for curve in theirs])) for key in METRICS}
            less = {key: plain(difference(ours, theirs, l0, key)) for key in METRICS}
            yield shown(row | values | ({} if name == OURS else {"ours less theirs": less}))


def oracle_rows(config: ValidateConfig) -> Iterator[dict[str, Any]]:
    """Yields the rows of a decoder that is held, with the encoder of a relu SAE trained by L1."""
    l0 = config.baselines["relu"].l0
    for world in ("orthogonal", "overlapping"):
        truths = [config.worlds[world].truth(seed) for seed in config.seeds]
        for name, rows_of in (("true directions", true_rows), ("children made orthogonal", orthogonal_rows)):
            curves = [held_decoder(truth, seed, rows_of(truth), config) for seed, truth in enumerate(truths)]
            values = {key: plain(mean([curve.at(l0, key) for curve in curves])) for key in METRICS}
            yield shown({"baseline": "relu", "world": world, "arm": name, **values})


def true_rows(truth: Truth) -> Tensor:
    return truth.directions


def orthogonal_rows(truth: Truth) -> Tensor:
    rows, is_child = truth.directions.clone(), truth.parent >= 0
    children, parents = rows[is_child], rows[truth.parent[is_child]]
    rows[is_child] = normalize(children - (children * parents).sum(1, keepdim=True) * parents, dim=1)
    return rows


def held_decoder(truth: Truth, seed: int, rows: Tensor, config: ValidateConfig) -> Curve:
    """Trains an encoder for the decoder `rows` (num_features, d_in) at every weight of the sweep."""
    x, heldout = draw(truth, seed, TRAINED, config.pool).x, draw(truth, seed, HELD_OUT, config.heldout)
    scale = (truth.d_in / x.square().sum(1).mean()).sqrt()
    sweep = torch.tensor(config.baselines["relu"].sweep).view(-1, 1, 1)
    W_enc = rows.T.repeat(len(sweep), 1, 1).requires_grad_()
    b_enc = torch.zeros(len(sweep), 1, len(rows), requires_grad=True)
    optimizer = torch.optim.Adam([W_enc, b_enc], lr=float(config.optimizer.lr))
    rng = torch.Generator().manual_seed(seed)
    for _ in range(config.steps):
        batch = scale * x[torch.randint(len(x), (config.batch_size,), generator=rng)]
        acts = (batch @ W_enc + b_enc).relu()
        loss = ((acts @ rows - batch).square().sum(2) + (sweep * acts).sum(2)).mean(1).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        acts = (scale * heldout.x @ W_enc + b_enc).relu() / scale
        return Curve(tuple(measure(truth, heldout, of_weight, rows, of_weight @ rows).to_dict() for of_weight in acts))


def plain(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Prints a row as a line of the docs' table, and returns it."""
    less = row.get("ours less theirs", {})
    cells = [f"{row[key]['value']:.3f}" + spread(less.get(key)) for key in METRICS if key in row]
    print(
        "|",
        " | ".join([row["baseline"], row["world"], row["arm"], *cells]),
        "|",
        row.get("not compared", ""),
        flush=True,
    )
    return row


def spread(less: dict[str, float] | None) -> str:
    return f" ({less['value']:+.3f} [{less['low']:+.3f}, {less['high']:+.3f}])" if less else ""


if __name__ == "__main__":
    main()
