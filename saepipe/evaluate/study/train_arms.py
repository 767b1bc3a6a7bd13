"""Training of a study's arms to their L0: checked on held-out text, and trained once more if an arm missed it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from saepipe.data.remote.mirror import mirror_of
from saepipe.data.remote.moving import move
from saepipe.data.remote.places import folder_of
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.compare.checks import unmatched_l0
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
        return folder_of(self.config.cache_at(self.out))

    def runs(self, arms: Iterable[Arm], seeds: Sequence[int]) -> list[Path]:
        """Returns the run folders of arms, seeds varying fastest."""
        return [self.out / RUNS / arm.label / f"seed-{seed}" for arm in arms for seed in seeds]

    def trained_to(self, record: Record) -> dict[str, float]:
        """Returns the L0 by label of the arms that missed theirs and are trained again, to another."""
        checked = {arm.label: record.checked_of(arm.label, arm.fingerprint) for arm in self.arms}
        return {label: of.trained_to for label, of in checked.items() if of is not None and of.trained_to is not None}


def train_arms(study: Study, seeds: Sequence[int], record: Record, progress: Progress) -> Record:
    """Trains every arm at its L0, and returns the record with what the L0s came to.

    An arm whose mean L0 on held-out text is more than 5 % from the baseline's is trained once more, to an L0 as far on
    the other side; its first runs are kept under `missed/`. What its first seeds decide holds for later ones.
    """
    _clear_away(study, record)
    _train(study, seeds, record, progress)
    record = record.registering(study.config.primary_metrics)
    new = [arm for arm in study.arms if arm.l0 and record.checked_of(arm.label, arm.fingerprint) is None]
    checked = _check(study, new, seeds, record, progress)
    record = record.with_checked(checked)
    for label, of in checked.items():
        if of.trained_to is not None:
            misses = f"{label} has L0 {of.measured:.3g}, the baseline {of.wanted:.3g}"
            progress.say(f"{misses}: it is trained again, to {of.trained_to:.3g}")
    if any(of.trained_to is not None for of in checked.values()):
        _clear_away(study, record)
        _train(study, seeds, record, progress)
    return record


def _train(study: Study, seeds: Sequence[int], record: Record, progress: Progress) -> None:
    config = train_config(study.config, study.arms, seeds, study.trained_to(record), study.cache)
    train(config, study.out / RUNS, progress=progress, open_tail_models=TailModels)


def _check(
    study: Study, arms: Sequence[Arm], seeds: Sequence[int], record: Record, progress: Progress
) -> dict[str, Checked]:
    """Measures `core` of the arms' runs; returns their mean L0s beside the baseline's, by label."""
    if not arms:
        return {}
    settings = study.config.evaluate
    core = next(metric for metric in settings.metrics if isinstance(metric, Core))
    only_core = settings.model_copy(update={"metrics": (core,), "features": None})
    evaluate(study.runs(arms, seeds), only_core, progress=progress)
    measured = {arm.label: mean_l0(study.runs([arm], seeds)) for arm in arms}
    known = measured | {label: of.wanted for label, of in record.checked.items() if label not in measured}
    return {
        arm.label: _checked(arm, known[group[0].label], measured[arm.label])
        for group in by_l0(study.arms)
        for arm in group
        if arm.label in measured
    }


def _checked(arm: Arm, wanted: float, measured: float) -> Checked:
    """Compares an arm's L0 with the baseline's, and finds the L0 that it is to be trained to instead."""
    assert arm.l0 is not None
    missed = min(wanted, measured) > 0 and unmatched_l0(wanted, measured) is not None
    other = arm.l0 * wanted / measured if missed else arm.l0
    other = max(1.0, round(other)) if arm.keeps_whole_k else other
    return Checked(arm.fingerprint, wanted, measured, other if other != arm.l0 else None)


def mean_l0(runs: Iterable[Path]) -> float:
    """Returns the mean L0 of runs that `core` has measured."""
    values = [open_run(run).metrics["core"]["l0"].value for run in runs]
    return fmean(value for value in values if value is not None)


def _clear_away(study: Study, record: Record) -> None:
    """Moves the first runs of arms that missed their L0 out of the way, each arm once."""
    for label in study.trained_to(record):
        first, kept = study.out / RUNS / label, study.out / MISSED / f"{label}-{record.checked[label].arm[:8]}"
        for folder in (first, kept):  # `refresh` leaves alone what is below the study's own lock
            if mirror := mirror_of(folder):
                mirror.pull(to_write=True)
        if first.exists() and not kept.exists():
            move(first, kept)


def measured_l0s(study: Study, arms: Sequence[Arm]) -> Mapping[str, float]:
    """Returns the mean L0 by label of the arms whose runs `core` has measured, all of them."""
    runs = {arm.label: study.runs([arm], study.config.all_seeds) for arm in arms}
    done = {label: of for label, of in runs.items() if all((run / "eval" / "core.json").exists() for run in of)}
    return {label: mean_l0(of) for label, of in done.items()}
