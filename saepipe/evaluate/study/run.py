"""A study from its question to its verdict: plan, cache, pilot, arms at one L0, evaluation, report, paragraph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saepipe.data.errors import ConfigError, MachineError
from saepipe.data.folders.artifact import write_file
from saepipe.data.remote.places import folder_lock, folder_of, send
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.evaluate.compare.table import Table, compare
from saepipe.evaluate.report.run import report
from saepipe.evaluate.run import evaluate
from saepipe.evaluate.study.arm_configs import arms_of, by_l0
from saepipe.evaluate.study.config import StudyConfig
from saepipe.evaluate.study.paragraph import paragraph
from saepipe.evaluate.study.plan import known_powers
from saepipe.evaluate.study.power import spreads_over_seeds
from saepipe.evaluate.study.record import Record
from saepipe.evaluate.study.train_arms import Study, train_arms
from saepipe.harvest.run import harvest

PARAGRAPH = "paragraph.txt"

PILOT_SEEDS = 2
"""Seeds whose differences tell how far those of further seeds will spread."""


@dataclass(frozen=True)
class Verdicts:
    """Outcome of a study."""

    tables: tuple[Table, ...]
    """one per L0, each against the baseline at that L0"""
    paragraph: str
    reports: tuple[Path, ...]
    """one per L0; none if the extra `report` is not installed"""

    def to_dict(self) -> dict[str, Any]:
        tables = [table.to_dict() for table in self.tables]
        return {"paragraph": self.paragraph, "reports": [str(page) for page in self.reports], "tables": tables}


def study(
    config: StudyConfig | Mapping[str, Any] | Path | str, out: Path | str = "study", *, progress: Progress | None = None
) -> Verdicts:
    """Runs a study, or goes on with it; what is done already is not done again.

    Args:
        config: a config, its plain data, or the path of its YAML file.
        out: folder of the cache, the runs, the report and the record of what was decided on the way, or its address
            in a bucket.
        progress: receives the progress of each stage.

    Raises:
        ConfigError: if an arm is wrong, or the planned seeds could not show any effect of interest.
        SaepipeError: as `harvest`, `train` and `evaluate`.

    Example:
        >>> outcome = study("study.yaml", "study")
        >>> print(outcome.paragraph)
    """
    config, out, progress = StudyConfig.of(config), folder_of(out), progress or Silent()
    arms = tuple(arms_of(config))
    with folder_lock(out, say=progress.say):
        record = Record.read(out)
        if record.primary_metrics is not None:  # results were read: what they are judged by is settled
            record = record.registering(config.primary_metrics)
            config = config.model_copy(update={"primary_metrics": record.primary_metrics})
        planned = Study(config, arms, out)
        if config.harvest is not None:
            harvest(config.harvest, planned.cache, progress=progress)
        record = _pilot(planned, record, progress)
        require_power(config, record, progress)
        record = train_arms(planned, config.all_seeds, record, progress)
        tables = _measured(planned, config.all_seeds, progress)
        record = record.judging(config.question, [arm.label for arm in arms], config.all_seeds)
        text = paragraph(config, record, tables)
        write_file(out / PARAGRAPH, f"{text}\n".encode())
        send(out / PARAGRAPH)
        return Verdicts(tuple(tables), text, _reports(planned, progress))


def _pilot(planned: Study, record: Record, progress: Progress) -> Record:
    """Trains and compares the first two seeds, unless the spread of every primary metric is known."""
    config = planned.config
    known = {**(record.spreads or {}), **config.spreads}
    if record.spreads is not None or known.keys() >= config.primary_metrics.keys():
        return record
    seeds = config.seeds[:PILOT_SEEDS]
    progress.say(f"pilot: seeds {seeds[0]} and {seeds[1]} of each arm, for the spread of the differences")
    record = train_arms(planned, seeds, record, progress)
    tables = _measured(planned, seeds, progress)
    return record.with_spreads(*spreads_over_seeds(tables, {arm.label for arm in planned.arms if not arm.is_control}))


def _measured(planned: Study, seeds: Sequence[int], progress: Progress) -> list[Table]:
    """Evaluates runs, and compares those of each L0 with the baseline there."""
    evaluate(planned.runs(planned.arms, seeds), planned.config.evaluate, progress=progress)
    return [compare(planned.runs(group, seeds), planned.runs(group[:1], seeds)[0]) for group in by_l0(planned.arms)]


def require_power(config: StudyConfig, record: Record, progress: Progress) -> None:
    """Says what the planned seeds can see; raises ConfigError if that is no effect of interest at all."""
    known = known_powers(config, record)
    for power in known:
        progress.say(str(power))
    if not known or not all(power.hopeless for power in known) or config.underpowered == "go_on":
        return
    needed = [power.seeds_needed for power in known if power.seeds_needed]
    more = f"`--seeds +{min(needed) - len(config.seeds)}`, " if needed else ""
    raise ConfigError(
        f"this study could not show what it asks: {'; '.join(map(str, known))}",
        hint=f"{more}or `underpowered: go_on`; other settings or effects of interest make another study (--out)",
    )


def _reports(planned: Study, progress: Progress) -> tuple[Path, ...]:
    """Writes a report per L0; none if the extra `report` is not installed."""
    pages = []
    for group in by_l0(planned.arms):
        runs = planned.runs(group, planned.config.all_seeds)
        name = "report.html" if group[0].l0 is None else f"report-l0-{group[0].l0:g}.html"
        try:
            title = planned.config.question
            pages.append(report(runs, planned.out / name, baseline=runs[0], title=title))
        except MachineError as error:
            progress.say(f"no report: {error}")
            break
    return tuple(pages)
