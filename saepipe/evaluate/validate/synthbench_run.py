"""Validation on SynthSAEBench: its published SAEs, or penalties on a BatchTopK beside as many random pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from saepipe.data.bucket_address import refuse_address
from saepipe.data.config.base import fingerprint
from saepipe.data.device import pick_device
from saepipe.data.errors import ConfigError
from saepipe.data.synthetic import CopulaWorld
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.stats.paired_seeds import mean, paired
from saepipe.evaluate.validate import synthbench_metrics, synthbench_training
from saepipe.evaluate.validate.arms import ARMS, Arm, select_arms
from saepipe.evaluate.validate.code_digest import code_digest, penalty_digests
from saepipe.evaluate.validate.config import SynthBenchConfig
from saepipe.evaluate.validate.run import check_contract
from saepipe.evaluate.validate.synthbench_rows import SIZES, Raw, Size, published_rows, training
from saepipe.evaluate.validate.synthbench_table import KEYS, BenchRow, BenchTable
from saepipe.evaluate.validate.synthbench_training import make_world, measure_on_world, train_on_world
from saepipe.evaluate.validate.trained_stacks import Outcome, kept_outcomes, write_outcomes
from saepipe.train.config import TrainConfig
from saepipe.train.control_kinds import PLACEBO
from saepipe.train.controls import control_overrides, most_pairs

BASELINE = "batch_topk"
RANDOM = ", random pairs"
"""Ending of the name of a row's placebo."""

Values = Mapping[str, Sequence[Mapping[str, float]]]
"""Metrics by row, then by seed."""


def validate_synthbench(names: Sequence[str], config: SynthBenchConfig, out: Path, *, progress: Progress) -> BenchTable:
    """Compares SAEs of the benchmark's world with its BatchTopK, paired by seed.

    Args:
        names: penalties, as of `saepipe validate`, to add to the BatchTopK; none: the published architectures.
        config: size and seeds.
        out: folder whose `synthbench/` keeps the metrics of every SAE, so that another call trains only new ones.
        progress: receives the number of trained tokens.

    Raises:
        ConfigError: if an arm is unknown, or cannot be added to a BatchTopK.
    """
    size = SIZES[config.size]
    rows = wanted_rows(names, size)
    refuse_address(out)
    trainer = _Trainer(size, config, out / "synthbench", progress)
    table = BenchTable((), config.size, str(size), config.to_dict())
    progress.say(table.title)
    progress.start("train", len(rows) * config.num_seeds * size.steps * size.batch_size, "tokens")
    values = {
        name: [trainer.metrics(training(size, raw, seed)) for seed in range(config.num_seeds)]
        for name, raw in rows.items()
    }
    progress.finish()
    return table.with_rows([compared_row(name, values) for name in rows])


def wanted_rows(names: Sequence[str], size: Size) -> dict[str, Raw]:
    """Returns the parts of a training config that are a row's own, by name; the baseline is the first."""
    published = published_rows(size)
    base = published[BASELINE]
    if not names:
        return {BASELINE: base} | published
    rows = {BASELINE: base}
    for arm in _added_arms(names):
        name = f"{BASELINE} + {arm.name}"
        penalty = arm.penalty | {"weight": arm.weights[len(arm.weights) // 2]}
        rows[name] = base | {"penalties": [*base["penalties"], penalty]}
        config = TrainConfig.parse(training(size, rows[name], 0))
        if most_pairs(config.penalties[-1], size.d_sae) is not None:
            rows[name + RANDOM] = rows[name] | control_overrides(config, PLACEBO)
    return rows


def _added_arms(names: Sequence[str]) -> list[Arm]:
    """Returns the named arms; of `all`, those that a BatchTopK can have.

    Raises:
        ConfigError: if a named arm is no penalty that a BatchTopK, which has auxk, lacks; or breaks the contract.
    """
    arms = select_arms(names)
    refused = [arm.name for arm in arms if arm.kind != "added" or BASELINE not in arm.baselines or arm.name == "auxk"]
    if refused and "all" not in names:
        raise ConfigError(
            f"{', '.join(refused)}: on this world penalties are added to a {BASELINE}, and this cannot be",
            hint="validate it on the small worlds, without --world; `saepipe validate --world` alone has the others",
        )
    added = [arm for arm in arms if arm.name not in refused]
    for arm in added:
        if arm not in ARMS:
            check_contract(arm)
    return added


class _Trainer:
    """Trains SAEs on one world, which is made when the first one is needed."""

    def __init__(self, size: Size, config: SynthBenchConfig, folder: Path, progress: Progress) -> None:
        self._size, self._config, self._folder, self._progress = size, config, folder, progress
        self._device = pick_device(config.device)
        self._world: CopulaWorld | None = None

    def metrics(self, raw: Raw) -> Mapping[str, float]:
        """Returns the metrics of one SAE, kept by an earlier call or measured now."""
        path = self._folder / f"{self._fingerprint(raw)}.json"
        if (kept := kept_outcomes(path, self._progress)) is None:
            self._world = self._world or make_world(self._size, self._config)
            config, params = train_on_world(self._size, self._world, raw, self._progress.advance)
            kept = [Outcome(measure_on_world(self._size, self._world, config, params).to_dict())]
            write_outcomes(path, kept)
        else:
            self._progress.advance(self._size.steps * self._size.batch_size)
        return kept[0].metrics

    def _fingerprint(self, raw: Raw) -> str:
        files = (Path(str(module.__file__)) for module in (synthbench_training, synthbench_metrics))
        return fingerprint(
            {
                "config": raw,
                "size": repr(self._size),
                "files": str(self._config.files or ""),
                "device": self._device.type,
                "torch": torch.__version__,
                "source": code_digest(*files),
                "penalties": penalty_digests(_names(raw["penalties"])),
            }
        )


def _names(penalties: Sequence[Raw]) -> list[str]:
    """Returns the names of penalties, and of those that an `l0_target` steers."""
    steered = [penalty["penalty"] for penalty in penalties if "penalty" in penalty]
    return [penalty["name"] for penalty in (*penalties, *steered)]


def compared_row(name: str, values: Values) -> BenchRow:
    """Returns a row with its differences from the baseline and, if it has one, from its placebo."""

    def column(row: str, key: str) -> list[float]:
        return [metrics[key] for metrics in values[row]]

    others = {"baseline": BASELINE, "random": name + RANDOM}
    differences = {
        of: {key: paired(column(name, key), column(other, key)).mean for key in KEYS}
        for of, other in others.items()
        if other in values and other != name
    }
    means = {key: mean(column(name, key)) for key in KEYS}
    return BenchRow(name, len(values[name]), means, differences.get("baseline", {}), differences.get("random", {}))
