"""Trains every variant of a config from one stream of batches a cache, hook, batch size and order of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal

import torch

from saepipe.data.batches.stream import BatchStream
from saepipe.data.errors import ConfigError, HealthError
from saepipe.data.folders.artifact import is_committed, writer_lock
from saepipe.data.folders.health import Finding, Health, errors, unusable
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.train.config import TrainConfig, labels
from saepipe.train.health.dry_step import dry_step
from saepipe.train.health.finished import check_finite, check_steps
from saepipe.train.health.judge import check_commits, doubts, judge
from saepipe.train.health.log_lines import check_log
from saepipe.train.plan import Planned, plan_runs
from saepipe.train.rundir import folder as run_folder
from saepipe.train.rundir.checkpoint import last_checkpoint, load_checkpoint, save_checkpoint
from saepipe.train.rundir.metrics_log import MetricsLog
from saepipe.train.stacked.teams import Team, teams
from saepipe.train.step.allocator import keep_freed_memory
from saepipe.train.step.init import center
from saepipe.train.step.loss import RECONSTRUCTION
from saepipe.train.step.measure import Measurement
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params
from saepipe.train.trackers.base import TrackedRun, check_installed
from saepipe.train.trackers.tracker_threads import Trackers, Tracking

Resume = Literal["auto", "never", "must"]


@dataclass(eq=False)
class Live:
    """A run that is being trained."""

    planned: Planned
    header: dict[str, Any]
    metadata: dict[str, Any]
    state: TrainState
    log: MetricsLog
    trackers: Trackers
    strict: bool
    early: list[Finding] = field(default_factory=list)  # what was found before the first step
    told: set[tuple[str, str]] = field(default_factory=set)  # rules, and what they were about
    failed: tuple[Finding, ...] = ()

    @property
    def wants(self) -> int | None:
        """The number of the batch it trains on next; None when it is done or has failed."""
        return None if self.failed or self.state.step >= self.planned.recipe.num_steps else self.state.step

    @property
    def logs(self) -> bool:
        """Whether the step that comes next ends with a line of the log."""
        done = self.state.step + 1
        return done in (1, self.planned.recipe.num_steps) or done % self.planned.recipe.config.log_every == 0


def train(
    config: TrainConfig | Mapping[str, Any] | Path | str,
    out: Path | str = "runs",
    *,
    resume: Resume = "auto",
    strict: bool = False,
    progress: Progress | None = None,
) -> list[Path]:
    """Trains all runs of `config`, going on where an earlier call stopped; finished ones are left as they are.

    Args:
        config: with its variants and seeds; also its plain data, or the path of its YAML file.
        out: a run goes to `out`/<variant>/seed-<n>/.
        resume: `auto` goes on or begins; `never` refuses folders in which something lies; `must` refuses others.
        strict: end a run as soon as a rule of health finds an error, also where its SAE could be used.
        progress: told where it stands.

    Returns:
        The folders of all runs.

    Raises:
        ConfigError: if a run cannot be made, before any is.
        MachineError: if the package of one of `trackers` is missing, likewise.
        HealthError: if a run has no usable SAE, or (strict) an error of any rule; the others were trained.
    """
    keep_freed_memory()
    config, progress = TrainConfig.of(config), progress or Silent()
    planned = plan_runs(config, Path(out))
    check_installed(sorted({name for run in planned for name in run.recipe.config.trackers}))
    failed: list[Live] = []
    with ExitStack() as locks, Tracking(progress) as tracking:
        for run in planned:
            locks.enter_context(writer_lock(run.folder))
            _check_resume(run, resume)
            run_folder.refuse_another(run.folder, run.recipe.config, run.cache)
        unfinished = [run for run in planned if not is_committed(run.folder)]
        if len(unfinished) < len(planned):
            progress.say(f"{len(planned) - len(unfinished)} of {len(planned)} runs are finished already")
        for _, group in groupby(sorted(unfinished, key=lambda run: run.stream), key=lambda run: run.stream):
            failed += train_group(list(group), progress, tracking, strict=strict)
    _sum_up([run.folder for run in planned if is_committed(run.folder)], progress)
    if failed:
        listed = "\n".join(f"  {run.planned.folder}: {run.failed[0]}" for run in failed)
        raise HealthError(f"{len(failed)} of {len(planned)} runs failed:\n{listed}", hint="see their health.json")
    return [run.folder for run in planned]


def train_group(
    group: Sequence[Planned], progress: Progress, tracking: Tracking, *, strict: bool = False
) -> list[Live]:
    """Trains runs that share a stream, and returns those that failed."""
    first = group[0]
    _, hook, batch_size, data_seed = first.stream
    device, resident = first.recipe.device, first.recipe.config.resident
    with BatchStream(
        first.cache, hook, batch_size, data_seed, device=device, resident=resident, progress=progress
    ) as stream:
        runs = [_begin(run, stream, tracking, strict) for run in group]
        early_batches = list(islice(stream.batches(), 2))
        for run in runs:
            _look_before(run, early_batches, progress)
        start, stop = min(run.state.step for run in runs), max(run.planned.recipe.num_steps for run in runs)
        passes = stop * batch_size / stream.num_rows
        if passes > 1:
            progress.say(f"{stop:,} steps of {batch_size} read the {stream.num_rows:,} cached rows {passes:.1f} times")
        with _task(progress, f"train {len(runs)} runs", stop * batch_size, start * batch_size):
            ready: list[Live] = []
            for number, rows in zip(range(start, stop), stream.batches(start), strict=False):
                if all(run.wants is None for run in runs):
                    break
                before, ready = ready, [run for run in runs if run.wants == number]
                if ready != before:
                    lineup = [(members, _team(members)) for members in teams(ready, lambda run: run.planned.recipe)]
                on_device = rows.to(device, non_blocking=True)
                for members, team in lineup:
                    for run, measured in zip(members, team.step(on_device, [run.logs for run in members]), strict=True):
                        _after_step(run, measured, progress)
                progress.advance(batch_size)
    for run in runs:
        if run.wants is not None:
            _heed(run, check_steps(run.state.step, run.planned.recipe.num_steps), progress)
    return [run for run in runs if run.failed]


def _begin(run: Planned, stream: BatchStream, tracking: Tracking, strict: bool) -> Live:
    """Where a checkpoint left it, or at step 0."""
    checkpoints = run.folder / run_folder.CHECKPOINTS
    path = last_checkpoint(checkpoints, run.run_id)
    state = load_checkpoint(path, run.recipe) if path else first_state(run.recipe, stream)
    header = run_folder.header(run.folder, run.variant, run.recipe, run.cache)
    run_folder.begin(run.folder, run.recipe, header)
    metadata = run_folder.sae_metadata(header, run.recipe, run.cache)
    log = MetricsLog(run.folder / run_folder.METRICS, state.step)
    trackers = tracking.follow(run.recipe.config.trackers, _tracked(run, header, state.step), log.lines)
    return Live(run, header, metadata, state, log, trackers, strict)


def _tracked(run: Planned, header: dict[str, Any], step: int) -> TrackedRun:
    study = run.folder.resolve().parents[1].name
    return TrackedRun(run.folder, run.variant.folder, study, run.recipe.config.to_dict() | {"run": header}, step)


def _look_before(run: Live, batches: list[torch.Tensor], progress: Progress) -> None:
    """What is known before the first step: doubts about the config, and what the dry step shows."""
    recipe = run.planned.recipe
    run.early = [*doubts(recipe.config), *check_commits(run.header["commits"]), *dry_step(recipe, run.state, batches)]
    _heed(run, run.early, progress)


def first_state(recipe: Recipe, stream: BatchStream) -> TrainState:
    """Step 0; b_dec is a centre of the stream's first rows."""
    init = recipe.config.init
    num_rows = min(init.b_dec_rows, stream.num_rows)
    params = initial_params(recipe)
    if init.b_dec != "zeros":
        batches = zip(stream.batches(), range(-(-num_rows // stream.batch_size)), strict=False)
        rows = torch.cat([batch for batch, _ in batches])[:num_rows]
        params["b_dec"] = center(recipe.scaled(rows), init.b_dec)
    return fresh_state(recipe, params)


def _team(members: Sequence[Live]) -> Team:
    """Of runs that from here on make their steps together; each one's manifest tells how many they are."""
    for run in members:
        if len(members) > run.header["stacked"]:
            run.header["stacked"] = len(members)
            run_folder.begin(run.planned.folder, run.planned.recipe, run.header)
    return Team([(run.planned.recipe, run.state) for run in members])


def _after_step(run: Live, measured: Measurement | None, progress: Progress) -> None:
    """What the number of the step just done asks for: a log line, a checkpoint, the end."""
    recipe, state = run.planned.recipe, run.state
    config, done = recipe.config, state.step
    last = done == recipe.num_steps
    saves = not last and done % config.checkpoint_every == 0
    if measured or saves:
        _heed(run, check_finite(state), progress)
    if measured and not run.failed:
        line = run.log.write(recipe, state, [RECONSTRUCTION, *labels(config.penalties)], measured)
        run.trackers.log(line)
        progress.advance(0, loss=line["loss"], l0=line["l0"], fvu=line["fvu"], dead=line["dead"])
        _heed(run, check_log(config, recipe.num_steps, run.log.lines, config.health, ended=False), progress)
    if saves and not run.failed:
        save_checkpoint(run.planned.folder / run_folder.CHECKPOINTS, run.planned.run_id, state)
    if last and not run.failed:
        _finish(run, progress)


def _heed(run: Live, findings: Sequence[Finding], progress: Progress) -> None:
    """Says what is new, and stops the run if nothing usable can come of it (strict: if nothing can be shown by it)."""
    folder = run.planned.folder
    for finding in findings:
        key = (finding.rule, finding.about or finding.message)
        if key not in run.told:
            run.told.add(key)
            progress.say(f"{folder}: {finding}")
            run.trackers.tell(run.state.step, finding)
    if fatal := (errors if run.strict else unusable)(findings):
        run.failed = tuple(fatal)
        Health(tuple(dict.fromkeys([*run.early, *findings]))).write(folder)


def _finish(run: Live, progress: Progress) -> None:
    """Judges the trained run by every rule, and commits it unless nothing usable came of it."""
    recipe, folder = run.planned.recipe, run.planned.folder
    others = run_folder.finished_beside(folder)
    health = judge(recipe, run.state, run.log.lines, run.planned.cache, run_folder.twin(folder), others)
    health = replace(health, findings=(*run.early, *health.findings))
    health.write(folder)
    _heed(run, health.findings, progress)
    if not run.failed:
        run_folder.finish(folder, recipe, run.state, run.header, run.metadata)
    run.trackers.end(ok=not run.failed)


def _sum_up(folders: Sequence[Path], progress: Progress) -> None:
    """Says loudly which runs cannot show what they were made to show."""
    void = {folder: found for folder in folders if (found := errors(Health.read(folder).findings))}
    if void:
        listed = "\n".join(f"  {folder}: {'; '.join(map(str, found))}" for folder, found in void.items())
        progress.say(f"{len(void)} OF {len(folders)} RUNS CANNOT SHOW WHAT THEY WERE MADE TO SHOW:\n{listed}")


@contextmanager
def _task(progress: Progress, what: str, num_tokens: int, done: int) -> Iterator[None]:
    progress.start(what, num_tokens, "tokens", done)
    try:
        yield
    finally:
        progress.finish()


def _check_resume(run: Planned, resume: Resume) -> None:
    begun = (run.folder / run_folder.CONFIG).exists()
    if resume == "never" and begun:
        raise ConfigError(f"{run.folder} holds a run already", hint="remove it, or drop --resume never")
    if resume == "must" and not begun:
        raise ConfigError(f"{run.folder} holds no run to go on with", hint="drop --resume must")
