"""Trains every variant of a config from one stream of batches a cache, hook, batch size and order of the data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch

from saepipe.data.artifact import is_committed, writer_lock
from saepipe.data.batches import BatchStream
from saepipe.data.errors import ConfigError, HealthError
from saepipe.data.progress import Progress, Silent
from saepipe.train import folder as run_folder
from saepipe.train.checkpoint import last_checkpoint, load_checkpoint, save_checkpoint
from saepipe.train.config import TrainConfig, labels
from saepipe.train.health import Finding, check_finished, check_finite
from saepipe.train.init import center
from saepipe.train.log import MetricsLog
from saepipe.train.loss import RECONSTRUCTION
from saepipe.train.plan import Planned, plan_runs
from saepipe.train.state import Recipe, TrainState, fresh_state, initial_params
from saepipe.train.step import train_step

Resume = Literal["auto", "never", "must"]


@dataclass
class Live:
    """A run that is being trained."""

    planned: Planned
    header: dict[str, Any]
    metadata: dict[str, Any]
    state: TrainState
    log: MetricsLog
    failed: tuple[Finding, ...] = ()

    @property
    def wants(self) -> int | None:
        """The number of the batch it trains on next; None when it is done or has failed."""
        return None if self.failed or self.state.step >= self.planned.recipe.num_steps else self.state.step


def train(config: TrainConfig, out: Path, *, resume: Resume = "auto", progress: Progress | None = None) -> list[Path]:
    """Trains all runs of `config`, going on where an earlier call stopped; finished ones are left as they are.

    Args:
        config: with its variants and seeds.
        out: a run goes to `out`/<variant>/seed-<n>/.
        resume: `auto` goes on or begins; `never` refuses folders in which something lies; `must` refuses others.
        progress: told where it stands.

    Returns:
        The folders of all runs.

    Raises:
        ConfigError: if a run cannot be made, before any is.
        HealthError: if a run broke a rule; the others were trained and committed.
    """
    progress = progress or Silent()
    planned = plan_runs(config, out)
    failed: list[Live] = []
    with ExitStack() as locks:
        for run in planned:
            locks.enter_context(writer_lock(run.folder))
            _check_resume(run, resume)
            run_folder.refuse_another(run.folder, run.recipe.config, run.cache)
        unfinished = [run for run in planned if not is_committed(run.folder)]
        if len(unfinished) < len(planned):
            progress.say(f"{len(planned) - len(unfinished)} of {len(planned)} runs are finished already")
        for _, group in groupby(sorted(unfinished, key=lambda run: run.stream), key=lambda run: run.stream):
            failed += train_group(list(group), progress)
    if failed:
        listed = "\n".join(f"  {run.planned.folder}: {run.failed[0].message}" for run in failed)
        raise HealthError(f"{len(failed)} of {len(planned)} runs failed:\n{listed}", hint="see their health.json")
    return [run.folder for run in planned]


def train_group(group: Sequence[Planned], progress: Progress) -> list[Live]:
    """Trains runs that share a stream, and returns those that failed."""
    first = group[0]
    _, hook, batch_size, data_seed = first.stream
    with BatchStream(first.cache, hook, batch_size, data_seed) as stream:
        runs = [_begin(run, stream) for run in group]
        start, stop = min(run.state.step for run in runs), max(run.planned.recipe.num_steps for run in runs)
        passes = stop * batch_size / stream.num_rows
        if passes > 1:
            progress.say(f"{stop:,} steps of {batch_size} read the {stream.num_rows:,} cached rows {passes:.1f} times")
        with _task(progress, f"train {len(runs)} runs", stop * batch_size, start * batch_size):
            for number, rows in zip(range(start, stop), stream.batches(start), strict=False):
                if all(run.wants is None for run in runs):
                    break
                on_device = rows.to(first.recipe.device, non_blocking=True)
                for run in runs:
                    if run.wants == number:
                        _advance(run, on_device, progress)
                progress.advance(batch_size)
    return [run for run in runs if run.failed]


def _begin(run: Planned, stream: BatchStream) -> Live:
    """Where a checkpoint left it, or at step 0."""
    checkpoints = run.folder / run_folder.CHECKPOINTS
    path = last_checkpoint(checkpoints, run.run_id)
    state = load_checkpoint(path, run.recipe) if path else _fresh(run.recipe, stream)
    header = run_folder.header(run.variant, run.recipe, run.cache)
    run_folder.begin(run.folder, run.recipe, header)
    metadata = run_folder.sae_metadata(header, run.recipe, run.cache)
    return Live(run, header, metadata, state, MetricsLog(run.folder / run_folder.METRICS, state.step))


def _fresh(recipe: Recipe, stream: BatchStream) -> TrainState:
    """Step 0; b_dec is a centre of the stream's first rows."""
    init = recipe.config.init
    num_rows = min(init.b_dec_rows, stream.num_rows)
    params = initial_params(recipe)
    if init.b_dec != "zeros":
        batches = zip(stream.batches(), range(-(-num_rows // stream.batch_size)), strict=False)
        rows = torch.cat([batch for batch, _ in batches])[:num_rows]
        params["b_dec"] = center(recipe.scaled(rows), init.b_dec)
    return fresh_state(recipe, params)


def _advance(run: Live, rows: torch.Tensor, progress: Progress) -> None:
    """One step of one run, then what its number asks for: a log line, a checkpoint, the end."""
    recipe, state = run.planned.recipe, run.state
    config, done = recipe.config, state.step + 1
    last = done == recipe.num_steps
    logs = done == 1 or last or done % config.log_every == 0
    saves = not last and done % config.checkpoint_every == 0
    measured = train_step(recipe, state, rows, watched=logs)
    if (logs or saves) and (findings := check_finite(state)):
        run.failed = tuple(findings)
        run_folder.write_health(run.planned.folder, findings)
        progress.say(f"{run.planned.folder} stops: {findings[0].message}")
        return
    if measured:
        line = run.log.write(recipe, state, [RECONSTRUCTION, *labels(config.penalties)], measured)
        progress.advance(0, loss=line["loss"], l0=line["l0"], fvu=line["fvu"], dead=line["dead"])
    if saves:
        save_checkpoint(run.planned.folder / run_folder.CHECKPOINTS, run.planned.run_id, state)
    if last:
        _finish(run)


def _finish(run: Live) -> None:
    """Checks the trained run by the rules, and commits it if it passes."""
    recipe = run.planned.recipe
    findings = check_finished(recipe, run.state, initial_params(recipe))
    run_folder.write_health(run.planned.folder, findings)
    if any(finding.severity == "error" for finding in findings):
        run.failed = tuple(findings)
        return
    run_folder.finish(run.planned.folder, recipe, run.state, run.header, run.metadata)


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
