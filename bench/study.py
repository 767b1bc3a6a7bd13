"""`saepipe study` takes at most 1.3 times the time of its steps run by hand.

    python bench/study.py [--rounds 2] [--steps 1000]

A baseline and three arms with three seeds each on the embedded toy, at one L0, from a cache that is there: once by
`study` (a pilot, then all seeds), and once by train, evaluate, compare and report. `spread known` is the study without
its pilot. CPU time of this process and its children, in alternating order. Writes results/study.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from record import write_result

import saepipe as sp
from saepipe.data.toy import CONFIGS
from saepipe.evaluate.study.arm_configs import arms_of, train_config
from saepipe.evaluate.study.config import StudyConfig
from saepipe.evaluate.study.run import study
from saepipe.harvest.config import HarvestConfig

CLAIM = __doc__.split("\n\n")[0]
L1 = {"name": "l1", "weight": 1.0}
ARMS = [
    {"name": "tanh", "penalties": [{"name": "tanh", "c": 0.5, "weight": 1.0}]},
    {"name": "log", "penalties": [{"name": "log", "weight": 1.0}]},
    {"name": "placebo", "penalties": [L1, {"name": "random_pairs", "weight": 0.02}]},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        sp.harvest(HarvestConfig.load(CONFIGS / "harvest.yaml"), root / "cache")
        config = study_of(root / "cache", args.steps)
        known = config.model_copy(update={"spreads": dict.fromkeys(config.primary_metrics, 1e-4)})
        ways: dict[str, Callable[[Path], object]] = {
            "by hand": lambda out: by_hand(config, out),
            "study": lambda out: study(config, out),
            "spread known": lambda out: study(known, out),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, way in ways.items():
                shutil.rmtree(root / "cache.artifacts", ignore_errors=True)  # what evaluations keep of the model
                seconds[name].append(cpu_seconds(way, root / name))
                print(f"{name:13} {seconds[name][-1]:.1f} CPU-seconds", flush=True)
                shutil.rmtree(root / name)
    medians = {name: median(times) for name, times in seconds.items()}
    ratios = {name: round(medians[name] / medians["by hand"], 3) for name in ("study", "spread known")}
    print(ratios, write_result("study", CLAIM, {"cpu_seconds": seconds, "ratios": ratios, "steps": args.steps}))


def study_of(cache: Path, steps: int) -> StudyConfig:
    train: dict[str, Any] = {"hook": "blocks.1.hook_resid_post", "sae": {"name": "relu", "d_sae": 512}}
    train |= {"penalties": [L1], "steps": steps, "batch_size": 512, "optimizer": {"lr": 1e-3}, "device": "cpu"}
    return StudyConfig.parse(
        {
            "question": "Does a penalty that shrinks large activations less reconstruct better at the same L0?",
            "cache": str(cache),
            "train": train,
            "arms": ARMS,
            "l0": 10,
            "evaluate": {"metrics": [{"name": "core"}, {"name": "absorption"}], "features": None, "device": "cpu"},
            "primary_metrics": {"explained_variance": 0.003, "delta_ce": 0.003},
        }
    )


def by_hand(config: StudyConfig, out: Path) -> None:
    """Does a study's steps one by one, without its pilot and its check of L0."""
    runs = sp.train(train_config(config, arms_of(config), config.seeds, {}, config.cache_at(out)), out)
    sp.evaluate(runs, config.evaluate)
    sp.compare(runs, runs[0])
    sp.report(runs, out / "report.html", baseline=runs[0])


def cpu_seconds(way: Callable[[Path], object], out: Path) -> float:
    start = os.times()
    way(out)
    return sum(os.times()[:4]) - sum(start[:4])


if __name__ == "__main__":
    main()
