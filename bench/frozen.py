"""Frozen arms beside trained SAEs on the toy model: what is left of a figure if the decoder or the encoder is random?

python bench/frozen.py [FOLDER]                # harvest, 12 trainings and their evaluation: some minutes

TopK SAEs, so that all arms have one L0: trained, and with the controls of `saepipe/train/controls.py` (Korznikov et
al. 2026, arXiv 2602.14111). The folder keeps the runs, so that `saepipe compare` and `report` can read them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from record import write_result

from saepipe.evaluate.compare.table import Table, compare
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.run import evaluate
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest
from saepipe.train.config import TrainConfig
from saepipe.train.control_kinds import Control
from saepipe.train.controls import control_overrides
from saepipe.train.run import train

CLAIM = "On the toy, what training the decoder, or the encoder, adds to the figures of a TopK SAE"
ARMS: tuple[Control, ...] = ("soft_decoder", "frozen_decoder", "frozen_encoder")
HARVEST: dict[str, Any] = {
    "model": {"model": "toy", "dtype": "float32", "device": "cpu"},
    "dataset": {"source": "toy"},
    "hooks": ["blocks.1.hook_resid_post"],
    "num_tokens": 200_000,
    "heldout_tokens": 20_000,
    "heldout_share": 0.1,
}
TRAIN: dict[str, Any] = {
    "sae": {"name": "topk", "d_sae": 512, "k": 16},
    "penalties": [{"name": "auxk"}],
    "steps": 1000,
    "batch_size": 512,
    "optimizer": {"lr": 2e-3},
    "device": "cpu",
    "seeds": [0, 1, 2],
}
EVALUATE: dict[str, Any] = {
    "metrics": [{"name": "core"}, {"name": "absorption"}, {"name": "sparse_probing"}],
    "features": None,
}
FIGURES = (
    "l0",
    "explained_variance",
    "delta_ce",
    "mean_full_absorption_score",
    "mean_absorption_fraction_score",
    "sae_top_1_test_accuracy",
    "sae_top_5_test_accuracy",
    "sae_test_accuracy",
    "llm_test_accuracy",
)


def make_runs(folder: Path) -> list[Path]:
    """Trains all arms from one cache; what is done already is kept."""
    cache = harvest(HarvestConfig.parse(HARVEST), folder / "cache").path
    plain = TRAIN | {"cache": str(cache)}
    arms = [{"name": arm, **control_overrides(TrainConfig.parse(plain), arm)} for arm in ARMS]
    return train(TrainConfig.parse(plain | {"variants": [{"name": "trained"}, *arms]}), folder / "runs")


def figures(table: Table) -> dict[str, dict[str, Any]]:
    """Returns each arm's means, and the verdict on its difference from the trained SAEs, by figure."""
    words = {verdict.variant: {change.key: change for change in verdict.changes} for verdict in table.verdicts}
    return {
        key: {variant.name: _cell(str(variant.mean(key)), words.get(variant.name, {}).get(key)) for variant in arms}
        for key, arms in ((key, table.variants) for key in FIGURES)
    }


def _cell(mean: str, change: Any) -> str:
    return mean if change is None else f"{mean}, {change.word}"


def print_table(rows: dict[str, dict[str, Any]]) -> None:
    """Prints the figures as a table of Markdown."""
    arms: Sequence[str] = list(next(iter(rows.values())))
    print(f"| figure | {' | '.join(arms)} |\n|---|{'---|' * len(arms)}")
    for key, cells in rows.items():
        print(f"| {key} | {' | '.join(cells.values())} |")


def measure(folder: Path) -> None:
    """Trains, evaluates, compares with the trained SAEs, and writes results/frozen.json."""
    runs = make_runs(folder)
    evaluate(runs, EvaluateConfig.parse(EVALUATE))
    rows = figures(compare(runs, baseline=runs[0]))
    print_table(rows)
    print(write_result("frozen", CLAIM, {"harvest": HARVEST, "train": TRAIN, "evaluate": EVALUATE, "figures": rows}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="keeps cache and runs; default: a temporary one")
    folder = parser.parse_args().folder
    if folder is not None:
        measure(folder)
        return
    with TemporaryDirectory() as temporary:
        measure(Path(temporary))


if __name__ == "__main__":
    main()
