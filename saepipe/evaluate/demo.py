"""A whole study from a folder of configs, as `saepipe demo` runs it: each step unless it is done."""

from __future__ import annotations

from pathlib import Path

from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.model.tail_models import TailModels
from saepipe.evaluate.run import evaluate
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest
from saepipe.train.config import TrainConfig
from saepipe.train.run import train


def run_study(configs: Path, settings: HarvestConfig, out: Path, progress: Progress) -> list[Path]:
    """Harvests, trains and evaluates below `out`; returns the runs, the baseline's first.

    Feature stores are gathered for one seed per variant, which is enough for the browser.

    Args:
        configs: folder with `train.yaml` and `evaluate.yaml`.
        settings: of the harvest.
        out: folder of the cache and the runs.
        progress: receives the progress of each stage.
    """
    cache = harvest(settings, out / "cache", progress=progress)
    study = TrainConfig.load(configs / "train.yaml", [f"cache={cache.path}"])
    runs = train(study, out / "runs", progress=progress, open_tail_models=TailModels)
    config = EvaluateConfig.load(configs / "evaluate.yaml")
    evaluate([run for run in runs if run.name == "seed-0"], config, progress=progress)
    others = [run for run in runs if run.name != "seed-0"]
    evaluate(others, config.model_copy(update={"features": None}), progress=progress)
    return runs
