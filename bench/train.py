"""Training speed against plain torch and other libraries: the same random activations, in turns, separate processes.

    SAEPIPE_SHARED=../shared python bench/train.py [--rounds 5] [--steps 50] [--before CHECKOUT] [--peers-python PYTHON]

Ours is `train_step` as `saepipe train` calls it, on bfloat16 rows: unit decoder rows, projection, clipping, dead
latents counted, sums for the log, and in each round one step with the measurements of a log line (a run has one in
100). It is timed at a settled density: each of ours is trained once until about 64 latents per token are active, and
every round continues from there. Dense steps, of others and ours, cost the same at any density. The floor is a step in
plain torch, without constraint, clipping or log. With --before, an earlier build in a checkout takes turns too, from
the same settled SAEs, without the log line's measurements. With --peers-python, an interpreter that has these
libraries, SAELens, dictionary_learning and sparsify take turns too, each with the step of its own trainer. Writes
results/train.json. With D_IN=2304 D_SAE=16384 in the environment it is a relu alone, with random weights, one bias for
all latents at which 64 are active, and an lr that leaves it so, since training one takes too long; it writes
results/train_wide.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from record import commit_of, write_result

from saepipe.train.config import TrainConfig
from saepipe.train.rundir.checkpoint import load_checkpoint, save_checkpoint
from saepipe.train.step.allocator import keep_freed_memory
from saepipe.train.step.state import Recipe, fresh_state, initial_params
from saepipe.train.step.step import train_step

PEERS = Path(os.environ.get("SAEPIPE_SHARED", "../shared")).resolve() / "bench_peers"
CLAIM = "A settled sparse step is at least 2 times as fast as plain torch's, and 1.3 times as fast as sparsify's TopK"
FLOOR = "raw_torch_relu_l1_fusedadam"
WIDE = {"D_IN": "2304", "D_SAE": "16384"}
IS_WIDE = all(os.environ.get(key) == value for key, value in WIDE.items())  # in this process and those that it starts
WIDE_L0 = 64
SETTLING = 0 if IS_WIDE else 300  # steps
FIGURES = ("acts_per_s", "acts_per_cpu_s", "ms_median")
OURS: dict[str, dict[str, Any]] = {
    "saepipe_relu_l1": {"sae": {"name": "relu"}, "penalties": [{"name": "l1", "weight": 4.0}]},
    "saepipe_topk": {"sae": {"name": "topk", "k": 32}},
    "saepipe_topk_auxk": {"sae": {"name": "topk", "k": 32}, "penalties": [{"name": "auxk"}]},
    "saepipe_matryoshka": {"sae": {"name": "matryoshka_batch_topk", "k": 32}},
    "saepipe_jumprelu_l0": {
        "sae": {"name": "jumprelu"},
        "penalties": [{"name": "l0", "weight": 3.0, "target": 64}],
        "optimizer": {"lr": 3e-3, "warmup": 0},  # so that its thresholds settle within `SETTLING` steps
    },
}
DENSE = "_dense"  # suffix of a name: the same SAE with dense steps
BEFORE = "_before"  # suffix of a name: the same SAE in an earlier build
if IS_WIDE:
    OURS = {"saepipe_relu_l1": OURS["saepipe_relu_l1"]}
AIMS = {
    ("saepipe_relu_l1", FLOOR): 2.0,
    ("saepipe_relu_l1", "dictionary_learning.StandardTrainer"): 2.0,
    ("saepipe_topk", "sparsify.SparseCoder.signum"): 1.3,
    ("saepipe_jumprelu_l0", "dictionary_learning.JumpReluTrainer"): 2.0,
    ("saepipe_relu_l1", "saepipe_relu_l1" + BEFORE): 2.0 if IS_WIDE else 1.8,
    ("saepipe_topk", "saepipe_topk" + BEFORE): 1.8,
    ("saepipe_topk_auxk", "saepipe_topk_auxk" + BEFORE): 1.8,
    ("saepipe_jumprelu_l0", "saepipe_jumprelu_l0" + BEFORE): 1.6,
    ("saepipe_matryoshka", "saepipe_matryoshka" + BEFORE): 3.0,
    ("saepipe_matryoshka", "SAELens.MatryoshkaBatchTopKTrainingSAE"): 3.0,
}


@dataclass(frozen=True)
class Contender:
    """A script that prints a JSON line for each of its names."""

    python: str
    script: tuple[str, ...]
    names: tuple[str, ...]
    suffix: str = ""
    """added to the names that it prints"""
    checkout: Path | None = None
    """whose saepipe it imports"""


def contenders(peers_python: str | None, before: Path | None) -> list[Contender]:
    names = [name + path for name in OURS for path in ("", DENSE)]
    ours = [Contender(sys.executable, (__file__, "--ours", name), (name,)) for name in names]
    if before is not None:
        ours += [
            Contender(sys.executable, (__file__, "--ours", name), (name + BEFORE,), BEFORE, before) for name in OURS
        ]
    floor = Contender(sys.executable, (str(PEERS / "bench_raw_torch.py"),), (FLOOR,))
    if peers_python is None:
        return [floor, *ours]

    def peer(file: str, *arguments: str, names: tuple[str, ...]) -> Contender:
        return Contender(peers_python, (str(PEERS / file), *arguments), names)

    trainers = ("standard", "topk", "jumprelu")
    dictionary_learning = tuple(f"dictionary_learning.{name}Trainer" for name in ("Standard", "TopK", "JumpRelu"))
    saelens = tuple(f"SAELens.{name}TrainingSAE" for name in ("Standard", "TopK", "MatryoshkaBatchTopK"))
    return [
        floor,
        *ours,
        peer("bench_dictionary_learning.py", *trainers, names=dictionary_learning),
        peer("bench_saelens.py", "standard", "topk", "matryoshka", names=saelens),
        peer("bench_sparsify.py", "signum", names=("sparsify.SparseCoder.signum",)),
    ]


def recipe_of(name: str, batch: int, d_in: int) -> Recipe:
    """Returns the recipe of one of ours; the run is so long that no schedule changes while it is timed."""
    settings = OURS[name.removesuffix(DENSE)]
    raw = {"optimizer": {"lr": 1e-12 if IS_WIDE else 1e-3, "warmup": 0}, **settings}
    raw |= {"sae": {**settings["sae"], "d_sae": int(os.environ.get("D_SAE", "4096"))}}
    raw |= {"cache": "none", "steps": 10_000, "batch_size": batch}
    raw |= {"sparse_steps": "never" if name.endswith(DENSE) else "auto"}
    cpu = torch.device("cpu")
    return Recipe(TrainConfig.parse(raw).resolved(hook="none", num_rows=batch, device=cpu), d_in, 1.0, cpu)


def settle(name: str, folder: Path) -> None:
    """Trains one of ours until its density has settled, and writes a checkpoint into `folder`."""
    sys.path.insert(0, str(PEERS))
    import common

    data = common.make_data()
    recipe = recipe_of(name, *data[0].shape)
    params = initial_params(recipe)
    if IS_WIDE:
        from gpu_parts.settled import threshold_at

        pre_acts = recipe.config.sae.pre_acts(params, recipe.scaled(data[0].bfloat16()), recipe.dtype)
        params["b_enc"] -= threshold_at(pre_acts, WIDE_L0 / pre_acts.shape[1])
    state = fresh_state(recipe, params)
    if IS_WIDE:
        state.sparse = True
    for number in range(SETTLING):
        train_step(recipe, state, data[number % len(data)].bfloat16())
    last = train_step(recipe, state, data[0].bfloat16(), *log_line())
    assert last is not None
    print(f"{name}: L0 {last.l0:.1f}, {'sparse' if state.sparse else 'dense'} steps", flush=True)
    save_checkpoint(folder / name, name, state)


def make_step(name: str, folder: Path, data: Sequence[torch.Tensor]) -> Callable[[int, torch.Tensor], float]:
    """Returns an optimisation step of ours with the interface of the shared harness."""
    recipe = recipe_of(name, *data[0].shape)
    state = load_checkpoint(folder / name.removesuffix(DENSE) / str(SETTLING + 1), recipe)
    state.sparse = state.sparse and recipe.config.sae.sparse and not name.endswith(DENSE)
    measured, rows = int(os.environ["MEASURED"]), [x.bfloat16() for x in data]  # as a cache has them

    def step(number: int, x: torch.Tensor) -> float:
        before = state.sums[:, 1].sum().item()
        train_step(recipe, state, rows[number % len(rows)], *(log_line() if number == measured else ()))
        return state.sums[:, 1].sum().item() - before

    return step


def log_line() -> tuple[Any, ...]:
    """Returns the argument of a step that measures what a log line needs."""
    from saepipe.train.step.sampling import Due  # not at the top: earlier builds have none

    return (Due.GRADIENTS | Due.LINE,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--peers-python", help="an interpreter that has sae-lens, dictionary-learning, eai-sparsify")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ours:
        keep_freed_memory()  # before any array, as `train` does
        sys.path.insert(0, str(PEERS))
        import common

        common.run(args.ours, lambda data: make_step(args.ours, Path(os.environ["SETTLED"]), data))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SETTLED"] = folder
        for name in OURS:
            settle(name, Path(folder))
        rounds = take_turns(contenders(args.peers_python, args.before), args.rounds, args.steps)
    medians = {name: {key: statistics.median(line[key] for line in lines) for key in FIGURES} for name, lines in rounds}
    to_floor = {name: figures["acts_per_cpu_s"] / medians[FLOOR]["acts_per_cpu_s"] for name, figures in medians.items()}
    aims = {
        f"{ours} to {peer}": {
            "aim": aim,
            "per CPU-second": ratio(medians, ours, peer, "acts_per_cpu_s"),
            "wall": ratio(medians, ours, peer, "acts_per_s"),
        }
        for (ours, peer), aim in AIMS.items()
        if peer in medians
    }
    to_floor_wall = {name: figures["acts_per_s"] / medians[FLOOR]["acts_per_s"] for name, figures in medians.items()}
    first = rounds[0][1][0]
    shape = {key: first[key] for key in ("d_in", "d_sae", "batch", "threads")}
    figures = {
        "aims": aims,
        "times the floor": {"per CPU-second": to_floor, "wall": to_floor_wall},
        "median": medians,
        "settings": {
            **shape,
            "rounds": args.rounds,
            "steps": args.steps,
            "before": args.before and commit_of(args.before),
        },
        "rounds": dict(rounds),
    }
    write_result("train_wide" if IS_WIDE else "train", CLAIM, figures)
    for name in medians:
        line = (
            f"{medians[name]['acts_per_s']:8,.0f} acts/s   {to_floor_wall[name]:.2f}x wall   {to_floor[name]:.2f}x CPU"
        )
        print(f"{name:40} {line}")
    for pair, reached in aims.items():
        print(f"{pair}: {reached['wall']:.2f}x wall, {reached['per CPU-second']:.2f}x CPU, aim {reached['aim']}x")


def ratio(medians: dict[str, dict[str, float]], ours: str, peer: str, figure: str) -> float:
    return medians[ours][figure] / medians[peer][figure]


def take_turns(entries: Sequence[Contender], rounds: int, steps: int) -> list[tuple[str, list[dict[str, Any]]]]:
    """Returns by name the lines that contenders printed in each round; every other round runs in the opposite order."""
    lines: dict[str, list[dict[str, Any]]] = {name: [] for entry in entries for name in entry.names}
    for number in range(rounds):
        for entry in entries if number % 2 == 0 else reversed(entries):
            for line in run_contender(entry, steps):
                name = line["name"] + entry.suffix
                if name in lines:
                    lines[name].append(line)
                    print(number, name, line["acts_per_s"], flush=True)
    return list(lines.items())


def run_contender(entry: Contender, steps: int) -> list[dict[str, Any]]:
    settings = {"STEPS": str(steps), "WARMUP": "3", "MEASURED": "3", "THREADS": "2", "K": "32"}
    if entry.checkout is not None:
        settings |= {"PYTHONPATH": str(entry.checkout.resolve()), "MEASURED": "-1"}
    command = [entry.python, *entry.script]
    run = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


if __name__ == "__main__":
    main()
