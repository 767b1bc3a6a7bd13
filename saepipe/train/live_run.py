"""A run while it trains: begun or resumed, checked before its first step, logged, checkpointed and finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Self

import torch

from saepipe.data.batches.first_batches import FirstBatches
from saepipe.data.errors import CorruptDataError, HealthError
from saepipe.data.folders.health import Finding, Health, errors, unusable
from saepipe.data.remote.places import publish_later
from saepipe.data.terminal.progress import Progress
from saepipe.train.health.dry_step import dry_step
from saepipe.train.health.finished import check_finite, check_steps
from saepipe.train.health.judge import check_commits, doubts, judge
from saepipe.train.health.log_lines import LogWatch
from saepipe.train.health.raised import raised_by_component
from saepipe.train.plan import Planned
from saepipe.train.rundir import folder as run_folder
from saepipe.train.rundir.checkpoint import load_checkpoint, save_checkpoint
from saepipe.train.rundir.finished_beside import finished_beside, twin
from saepipe.train.rundir.metrics_log import MetricsLog
from saepipe.train.rundir.process_log import log_process
from saepipe.train.rundir.resume_point import ResumePoint, remove_partial_files, resume_point
from saepipe.train.rundir.run_files import CHECKPOINTS, METRICS
from saepipe.train.rundir.starting_sae import starting_params
from saepipe.train.rundir.whole_state import alone, check_saved, whole_state
from saepipe.train.sae.base import Params
from saepipe.train.sae.transcoder import centered, split_rows
from saepipe.train.step.init import center
from saepipe.train.step.kl_tail import CleanWindows, SharedWindows
from saepipe.train.step.measure import Measurement
from saepipe.train.step.sampling import Due, due_at
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params
from saepipe.train.trackers.base import TrackedRun
from saepipe.train.trackers.tracker_threads import Trackers, Tracking


@dataclass(eq=False)
class LiveRun:
    """A run that is being trained."""

    planned: Planned
    header: dict[str, Any]
    metadata: dict[str, Any]
    state: TrainState
    log: MetricsLog
    watch: LogWatch
    trackers: Trackers
    progress: Progress
    strict: bool
    early_findings: list[Finding] = field(default_factory=list)  # before the first step
    reported: set[tuple[str, str]] = field(default_factory=set)  # rules, and what they were about
    news: list[Finding] = field(default_factory=list)  # reported since `train` last told the user
    fatal: tuple[Finding, ...] = ()

    @classmethod
    def begin(
        cls, planned: Planned, first: FirstBatches, tracking: Tracking, progress: Progress, *, strict: bool
    ) -> Self:
        """Opens the run at its last checkpoint, or at step 0."""
        folder, recipe = planned.folder, planned.recipe
        point = _resume_point(planned)
        for sentence in point.said:
            progress.say(f"{folder}: {sentence}")
        state = load_checkpoint(point.checkpoint, recipe) if point.checkpoint else first_state(recipe, first)
        header = run_folder.header(planned.variant, recipe, planned.cache, point.header)
        differing: list[str] = []
        if recipe.writes:
            run_folder.begin(folder, recipe, header)
            differing = log_process(folder, state.step, str(recipe.device))
        if differing and state.step:
            progress.say(f"{folder}: resumed with {', '.join(differing)}; its numbers may round otherwise")
        metadata = run_folder.sae_metadata(header, recipe, planned.cache)
        log = MetricsLog(folder / METRICS if recipe.writes else None, state.step, point.log)
        config, study = recipe.config.to_dict() | {"run": header}, folder.resolve().parents[1].name
        tracked = TrackedRun(folder, planned.variant.folder, study, config, state.step)
        trackers = tracking.follow(recipe.config.trackers if recipe.writes else (), tracked, log.lines)
        watch = LogWatch(recipe.config, recipe.num_steps, recipe.config.health, log.lines)
        return cls(planned, header, metadata, state, log, watch, trackers, progress, strict)

    @property
    def next_batch(self) -> int | None:
        """Number of the batch that it trains on next; None once it is done or has failed."""
        return None if self.fatal or self.state.step >= self.planned.recipe.num_steps else self.state.step

    @property
    def due(self) -> Due:
        """Purposes for which the next step is measured."""
        recipe, sampled = self.planned.recipe, self.state.sampled is not None
        return due_at(self.state.step + 1, recipe.num_steps, recipe.config.log_every, sampled=sampled)

    def windows_in(self, shared: SharedWindows | None) -> CleanWindows | None:
        """Returns the windows of the next step; None before the KL tail, or without one."""
        recipe, step = self.planned.recipe, self.state.step
        if shared is None or step < recipe.tail_start:
            return None
        count = recipe.config.kl_tail.windows
        assert count is not None, "the config is not resolved"
        return shared.at(step, count)

    def check_before_start(self, batches: Sequence[torch.Tensor]) -> None:
        """Reports doubts about the config and the findings of the dry step on the first batches."""
        recipe = self.planned.recipe
        commits = check_commits(self.header["commits"])
        self.early_findings = [*doubts(recipe.config), *commits, *dry_step(recipe, self.state, batches)]
        self.report(self.early_findings)

    @contextmanager
    def stops_alone(self) -> Iterator[None]:
        """Lets an error that one of the run's components raises stop this run and no other."""
        try:
            yield
        except Exception as error:
            self.failed_by(error)

    def failed_by(self, error: Exception) -> None:
        """Stops the run if one of its components raised `error`; otherwise raises it.

        Of a run over ranks it ends this rank's command, since the others wait for it in the middle of a step.
        """
        finding = raised_by_component(self.planned.recipe.config, error, f"in step {self.state.step + 1:,}")
        if finding is None:
            raise error
        self._record([finding])
        if self.planned.recipe.mesh is not None:
            raise HealthError(finding.message) from error

    def joins_team(self, size: int) -> None:
        """Records in the manifest how many runs, at most, made steps together."""
        if size > self.header["stacked"]:
            self.header["stacked"] = size
            run_folder.begin(self.planned.folder, self.planned.recipe, self.header)

    def after_step(self, measurement: Measurement | None) -> None:
        """Writes what is due after the step just done: a log line, a checkpoint, the finished run."""
        recipe, state = self.planned.recipe, self.state
        config, done = recipe.config, state.step
        last = done == recipe.num_steps
        saves = not last and done % config.checkpoint_every == 0
        if measurement or saves:
            self.report(check_finite(state))
        if measurement and not self.fatal:
            line = self.log.write(recipe, state, measurement)
            self.trackers.log(line)
            figures = {name: line[name] for name in ("loss", "l0", "fvu", "dead")}
            self.progress.advance(0, of=run_folder.label(self.planned.folder), **figures)
            self.watch.add(line)
            self.report(self.watch.findings(ended=False))
        if saves and not self.fatal:
            self.save()
        if last and not self.fatal:
            self._finish()

    def save(self) -> None:
        """Writes a checkpoint of the steps done; a bucket gets it while training goes on."""
        recipe, folder = self.planned.recipe, self.planned.folder / CHECKPOINTS
        state = whole_state(recipe, self.state)
        if state is not None:
            header = run_folder.of_the_steps(self.header)
            save_checkpoint(folder, self.planned.run_id, state, log=self.log.digest(), header=header)
        if recipe.mesh is not None:
            check_saved(folder / str(self.state.step), recipe, self.state, recipe.mesh)
        if recipe.writes:
            publish_later(self.planned.folder)

    def check_complete(self) -> None:
        """Reports missing steps of a run whose batches have ended."""
        if self.next_batch is not None:
            self.report(check_steps(self.state.step, self.planned.recipe.num_steps))

    def report(self, findings: Sequence[Finding]) -> None:
        """Keeps new findings for the user, and stops the run if it cannot become usable (strict: at any error).

        Ranks report at the same steps, each what it has found, so that all of them stop if one has a reason to.
        """
        mesh = self.planned.recipe.mesh
        self._record(findings if mesh is None else [*dict.fromkeys(chain(*mesh.of_all(findings)))])

    def _record(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            key = (finding.rule, finding.about or finding.message)
            if key not in self.reported:
                self.reported.add(key)
                self.news.append(finding)
                self.trackers.log_finding(self.state.step, finding)
        if fatal := (errors if self.strict else unusable)(findings):
            self.fatal = tuple(fatal)
            if self.planned.recipe.writes:
                Health(tuple(dict.fromkeys([*self.early_findings, *findings]))).write(self.planned.folder)

    def _finish(self) -> None:
        """Judges the trained run by every rule, and commits it unless it is unusable: on the first rank, if several."""
        recipe, folder = self.planned.recipe, self.planned.folder
        state = whole_state(recipe, self.state)
        self.report([] if state is None else self._judged(alone(recipe), state))
        if not self.fatal and state is not None:
            run_folder.finish(folder, alone(recipe), state, self.header, self.metadata)
        self.trackers.end(ok=not self.fatal)

    def _judged(self, recipe: Recipe, state: TrainState) -> Sequence[Finding]:
        """Writes health.json, and returns the findings."""
        folder = self.planned.folder
        others, own = finished_beside(folder, self.progress.say), twin(folder)
        health = judge(recipe, state, self._start(), self.log.lines, self.planned.cache, own, others)
        health = replace(health, findings=(*self.early_findings, *health.findings))
        health.write(folder)
        return health.findings

    def _start(self) -> Params | None:
        """Returns the parameters at step 0 but for b_dec; None, and says so, if the SAE it started from is gone."""
        recipe = self.planned.recipe
        if recipe.config.init.source is None:
            return initial_params(recipe)
        try:
            return starting_params(recipe)
        except (CorruptDataError, OSError) as error:
            self.progress.say(f"{self.planned.folder}: H8 does not apply: {error}")
            return None


def _resume_point(planned: Planned) -> ResumePoint:
    """Finds where the run goes on; of several ranks the first looks, and the others go on from there too."""
    recipe, point = planned.recipe, ResumePoint()
    if recipe.writes:
        remove_partial_files(planned.folder)
        point = resume_point(planned.folder, planned.run_id)
    return point if recipe.mesh is None else recipe.mesh.from_first(point)


def first_state(recipe: Recipe, first: FirstBatches) -> TrainState:
    """Returns the state at step 0, with b_dec (a transcoder's b_in too) at a centre of the stream's first rows.

    With `init.from`, it is that SAE's state, with only b_in, which the SAE's files do not keep, at such a centre.
    """
    init, transcoder = recipe.config.init, recipe.target is not None
    params = initial_params(recipe) if init.source is None else starting_params(recipe)
    if init.b_dec == "zeros" or (init.source is not None and not transcoder):
        return fresh_state(recipe, params)
    x, target = split_rows(recipe.scaled(first.rows(init.b_dec_rows)), recipe.d_in)
    if init.source is not None:
        return fresh_state(recipe, centered(params, center(x, init.b_dec).cpu()))
    params["b_dec"] = center(target, init.b_dec)
    if transcoder:
        params["b_in"] = center(x, init.b_dec)
    return fresh_state(recipe, params)
