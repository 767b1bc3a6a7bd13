"""Training of a study's arms to their L0: checked on held-out text, and trained once more if an arm missed it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.core.metric import Core
from saepipe.evaluate.model.tail_models import TailModels
from saepipe.evaluate.run import evaluate
from saepipe.evaluate.study.arm_configs import Arm, by_l0, train_config
from saepipe.evaluate.study.config import StudyConfig
from saepipe.evaluate.study.record import Checked, Record
from saepipe.evaluate.use.finished_run import open_run
from saepipe.train.run import train

RUNS, MISSED = "runs", "missed"
"""Folders of the runs, and of those of arms that missed their L0."""


@dataclass(frozen=True)
class Study:
    """A study at a place, with its arms."""

    config: StudyConfig
    arms: tuple[Arm, ...]
    out: Path

    @property
    def cache(self) -> Path:
        return self.config.cache_at(self.out)

    def runs(self, arms: Iterable[Arm], seeds: Sequence[int]) -> list[Path]:
        """Returns the run folders of arms, seeds varying fastest."""
        return [self.out / RUNS / arm.label / f"seed-{seed}" for arm in arms for seed in seeds]


def train_arms(study: Study, arms: Sequence[Arm], seeds: Sequence[int], record: Record, progress: Progress) -> Record:
    """Trains arms, each at its L0, and returns the record with what their L0 came to.

    An arm whose mean L0 on held-out text is more than 5 % from the baseline's is trained once more, to an L0 as far on
    the other side; its first runs are kept under `missed/`. What its first seeds decide holds for later ones.
    """
    _clear_away(study, record)
    _train(study, arms, seeds, record, progress)
    checked = _check(study, [arm for arm in arms if arm.label not in record.checked], seeds, record, progress)
    record = record.with_checked(checked)
    missed = {label: of for label, of in checked.items() if of.missed}
    for label, of in missed.items():
        misses = f"{label} has L0 {of.measured:.3g}, the baseline {of.wanted:.3g}"
        progress.say(f"{misses}: it is trained again, to {of.trained_to:.3g}")
    if missed:
        _clear_away(study, record)
        _train(study, arms, seeds, record, progress)
    return record


def _train(study: Study, arms: Sequence[Arm], seeds: Sequence[int], record: Record, progress: Progress) -> None:
    config = train_config(study.config, arms, seeds, record.trained_to, study.cache)
    train(config, study.out / RUNS, progress=progress, open_tail_models=TailModels)


def _check(
    study: Study, arms: Sequence[Arm], seeds: Sequence[int], record: Record, progress: Progress
) -> dict[str, Checked]:
    """Measures `core` of the arms' runs; returns their mean L0s beside the baseline's, by label."""
    arms = [arm for arm in arms if arm.l0 is not None]
    if not arms:
        return {}
    settings = study.config.evaluate
    core = next(metric for metric in settings.metrics if isinstance(metric, Core))
    only_core = settings.model_copy(update={"metrics": (core,), "features": None})
    evaluate(study.runs(arms, seeds), only_core, progress=progress)
    measured = {arm.label: fmean(map(_l0, study.runs([arm], seeds))) for arm in arms}
    known = measured | {label: of.wanted for label, of in record.checked.items()}
    return {
        arm.label: Checked(arm.l0, known[group[0].label], measured[arm.label])
        for group in by_l0(study.arms)
        for arm in group
        if arm.l0 is not None and arm.label in measured
    }


def _l0(run: Path) -> float:
    value = open_run(run).metrics["core"]["l0"].value
    assert value is not None
    return value


def _clear_away(study: Study, record: Record) -> None:
    """Moves the first runs of arms that missed their L0 out of the way, each arm once."""
    for label in record.trained_to:
        first, kept = study.out / RUNS / label, study.out / MISSED / label
        if first.exists() and not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            first.rename(kept)
