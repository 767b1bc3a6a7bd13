"""Trains every variant of a config from one stream of batches per cache, hook, batch size and order of the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from saepipe.data.batches.first_batches import FirstBatches
from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.bucket_reads import bucket_reads
from saepipe.data.cache.coming_rows import WaitEnded
from saepipe.data.errors import ConfigError, HealthError, is_out_of_memory
from saepipe.data.folders.artifact import is_committed
from saepipe.data.folders.finding_groups import grouped
from saepipe.data.folders.health import Finding, Health, errors
from saepipe.data.folders.resume_mode import ResumeMode
from saepipe.data.ranks.launch import Ranks
from saepipe.data.ranks.share import Share
from saepipe.data.ranks.threads import share_cores
from saepipe.data.remote.places import folder_of, refresh, writer_lock
from saepipe.data.terminal.progress import OfRank, Progress, Silent
from saepipe.data.terminal.signals import StopRequest, stop_requests
from saepipe.train.config import TrainConfig
from saepipe.train.from_harvest import OpenStream, check_streamed, opened
from saepipe.train.health.plugin_checks import check_plugins
from saepipe.train.health.raised import raised_by_component
from saepipe.train.live_run import LiveRun
from saepipe.train.memory_needs import out_of_memory, require_memory
from saepipe.train.parallel.mesh import open_mesh
from saepipe.train.plan import Planned, by_stream, check_room, plan_runs
from saepipe.train.rundir import folder as run_folder
from saepipe.train.rundir.run_damage import check_undamaged
from saepipe.train.rundir.run_files import CONFIG
from saepipe.train.shared_out import SharedOut
from saepipe.train.stacked.teams import Team, teams
from saepipe.train.step.allocator import keep_freed_memory
from saepipe.train.step.kl_tail import OpenTailModels, SharedWindows, TailModels
from saepipe.train.telling import Telling
from saepipe.train.trackers.base import check_installed
from saepipe.train.trackers.tracker_threads import Tracking


def train(
    config: TrainConfig | Mapping[str, Any] | Path | str,
    out: Path | str = "runs",
    *,
    resume: ResumeMode = "auto",
    strict: bool = False,
    share: Share | str = Share(),  # noqa: B008 - a frozen value
    progress: Progress | None = None,
    open_tail_models: OpenTailModels | None = None,
    open_stream: OpenStream | None = None,
) -> list[Path]:
    """Trains all runs of `config`, resuming what an earlier call left unfinished; finished runs are left as they are.

    Under torchrun, the ranks share out the runs.

    Args:
        config: with its variants and seeds; also its plain data, or the path of its YAML file.
        out: a folder, or an address in a bucket; a run goes to `out`/<variant>/seed-<n>/.
        resume: `auto` resumes or begins; `never` refuses folders that hold a run; `must` refuses folders that do not.
        strict: stop a run at the first error of a health rule, even if its SAE could be used.
        share: of the runs that this call trains, such as "2/8", if other calls train the others at the same time.
        progress: receives steps, figures and findings.
        open_tail_models: opens the language models of runs with a `kl_tail`; `saepipe.train` passes evaluate's.
        open_stream: opens the stream of a config with `cache: stream`; `saepipe.train` passes evaluate's.

    Returns:
        The folders of all runs of the share.

    Raises:
        ConfigError: if a run cannot be made, or a plugin fails or breaks the contract of penalties; raised before any
            run begins.
        MachineError: if the package of one of `trackers` is missing; raised before any run begins. If a rank that a
            run is split over is late or has ended.
        CorruptDataError: if a finished run is damaged; raised before any run begins.
        OutOfSpaceError: if the disk will not hold the runs; raised before any run begins.
        HealthError: if a run has no usable SAE or, with `strict`, any error; the others were trained.
        Stopped: on SIGTERM, once every run in progress has a checkpoint of its last step.
        KeyboardInterrupt: on Ctrl-C, likewise; on the command line it is `Interrupted`.

    Example:
        >>> config = {"cache": "cache", "sae": {"name": "topk", "d_sae": 4096, "k": 32}, "seeds": [0, 1, 2]}
        >>> runs = sp.train(config, "runs")
    """
    keep_freed_memory()
    config, progress, ranks = TrainConfig.of(config), progress or Silent(), Ranks.of_environment()
    out = folder_of(out)
    if ranks.is_first_here:
        refresh(out)
    with open_mesh(config.parallel, config.device) as mesh:
        if mesh is None:
            share_cores(ranks)
        shared_out = SharedOut.of(ranks if mesh is None else Ranks())
        if not ranks.is_first:
            progress = OfRank(ranks.rank, progress) if mesh is None else Silent()
        share = Share.of(share)
        stream = opened(config, out, ranks, share, open_stream, progress)
        with shared_out.leaving_together(), stream as (config, caches):
            planned = share.pieces(plan_runs(config, out, mesh, caches))
            if not planned:
                progress.say(f"share {share} has no run to train: the config has too few")
                return []
            check_streamed(planned)
            folders = _train_all(planned, out, resume, strict, progress, open_tail_models, shared_out)
        if mesh is not None:
            mesh.meet("finished")
        return folders


def _train_all(
    planned: Sequence[Planned],
    out: Path,
    resume: ResumeMode,
    strict: bool,
    progress: Progress,
    open_tail_models: OpenTailModels | None,
    shared_out: SharedOut,
) -> list[Path]:
    """Trains this rank's runs, and waits for those of the others; arguments and errors are those of `train`."""
    unfinished = shared_out.unfinished(planned)
    own, ranks, mesh = shared_out.own(unfinished), shared_out.ranks, planned[0].recipe.mesh
    check_installed(sorted({name for run in planned for name in run.recipe.config.trackers}))
    check_plugins(run.recipe for run in own)
    failed: list[Failure] = []
    with ExitStack() as locks, Tracking(progress) as tracking:
        for run in own:
            if run.recipe.writes:
                locks.enter_context(writer_lock(run.folder, say=progress.say))
        check_folders(planned if ranks.is_first else own, resume)
        if ranks.is_first and len(unfinished) < len(planned):
            progress.say(f"{len(planned) - len(unfinished)} of {len(planned)} runs are already finished")
        if ranks.is_first:
            check_room(unfinished, out)
        if mesh is not None:
            mesh.meet("looked at the folders of the runs")
        folders = {run.folder for run in own if not is_committed(run.folder)}
        streams = [[run for run in runs if run.folder in folders] for runs in by_stream(unfinished)]
        for runs in streams:
            require_memory(runs, ranks.local_size)
        for runs, windows in zip(streams, _tails(streams, open_tail_models, progress), strict=True):
            try:
                failed += train_group(runs, progress, tracking, windows, shared_out, strict=strict)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise out_of_memory(runs, error) from error
    shared_out.wait_for_all()
    if ranks.is_first:
        _print_invalid([run.folder for run in planned if is_committed(run.folder)], progress)
    if failed:
        reasons = {run_folder.label(folder): [finding] for folder, finding in failed}
        listed = "\n".join(f"  {group}" for group in grouped(reasons))
        raise HealthError(f"{len(failed)} of {len(planned)} runs failed:\n{listed}", hint=f"see {out}/*/*/health.json")
    return [run.folder for run in planned]


Failure = tuple[Path, Finding]
"""Folder of a run that failed, and the reason."""


def _tails(
    streams: Sequence[Sequence[Planned]], open_models: OpenTailModels | None, progress: Progress
) -> list[SharedWindows | None]:
    """Returns the windows of each stream's KL tails, with the model checked before any run begins; None without one."""
    firsts = [next((run for run in runs if run.recipe.config.kl_tail.share), None) for runs in streams]
    device = next((first.recipe.device for first in firsts if first), None)
    if device is None:
        return [None for _ in streams]
    if open_models is None:
        raise ConfigError("kl_tail needs the language model, which this call does not have", hint="use saepipe.train")
    models = open_models(device, progress)
    return [_windows(first, models) if first else None for first in firsts]


def _begun(
    group: Sequence[Planned], stream: BatchStream, tracking: Tracking, progress: Progress, *, strict: bool
) -> tuple[list[LiveRun], list[Failure]]:
    """Begins or resumes runs, and checks them on the first batches; returns those that live, and which failed."""
    runs, failed, first_batches = list[LiveRun](), list[Failure](), FirstBatches(stream)
    for planned in group:
        try:
            runs.append(LiveRun.begin(planned, first_batches, tracking, progress, strict=strict))
        except Exception as error:
            failed.append(_failure(planned, error))
    for run in runs:
        with run.stops_alone():
            run.check_before_start(first_batches.take(2))
    first_batches.clear()
    return runs, failed


def _windows(run: Planned, models: TailModels) -> SharedWindows:
    config = run.recipe.config
    return SharedWindows(models.at(run.cache, config.site, config.target), config.data_seed)


def train_group(
    group: Sequence[Planned],
    progress: Progress,
    tracking: Tracking,
    windows: SharedWindows | None = None,
    shared_out: SharedOut | None = None,
    *,
    strict: bool = False,
) -> list[Failure]:
    """Trains runs that share a stream, and the windows of their KL tails; returns which failed.

    Other ranks of `shared_out` may train more runs from the same stream.
    """
    shared_out = shared_out or SharedOut.of(Ranks())
    if not group:
        shared_out.together(range(0))
        return []
    first, mesh = group[0], group[0].recipe.mesh
    _, hooks, batch_size, data_seed, shuffle = first.stream
    device, resident = first.recipe.device, first.recipe.config.resident
    with BatchStream(
        first.cache,
        hooks,
        batch_size,
        data_seed,
        device=device,
        resident=resident,
        stretch_rows=first.cache.pool_rows if shuffle == "pool" else None,
        progress=progress,
    ) as stream:
        runs, failed = _begun(group, stream, tracking, progress, strict=strict)
        if not runs:
            shared_out.together(range(0))
            return failed
        telling = Telling(runs, progress)
        telling.tell()
        # A run that has failed its checks keeps its step, but no batch is read for it.
        start = min((run.state.step for run in runs if not run.fatal), default=0)
        stop = max((run.planned.recipe.num_steps for run in runs if not run.fatal), default=0)
        passes = stop * batch_size / stream.num_rows
        for reads in bucket_reads(first.cache, hooks):
            progress.say(str(reads))
        if passes > 1:
            progress.say(f"{stop:,} steps of {batch_size} read the {stream.num_rows:,} cached rows {passes:.1f} times")
        task = _task(progress, f"train {len(runs)} runs", stop * batch_size, start * batch_size)
        steps, sharing = shared_out.together(range(start, stop))
        upcoming = closing(stream.batches(steps.start, sharing, stop=steps.stop))
        coming_from = first.cache.coming_from(steps.start * batch_size)
        with (
            task,
            upcoming as batches,
            coming_from as coming,
            stop_requests(coming.stop_waiting) as stop_request,
            _keeping(runs, stop_request, progress),
        ):
            ready: list[LiveRun] = []
            lineup: list[tuple[list[LiveRun], Team]] = []
            for number, rows in zip(steps, batches, strict=False):
                if all(run.next_batch is None for run in runs):
                    break
                before, ready = ready, [run for run in runs if run.next_batch == number]
                if ready != before:
                    lineup = [
                        (members, _team(members, progress)) for members in teams(ready, lambda run: run.planned.recipe)
                    ]
                on_device = rows.to(device, non_blocking=True)
                for members, team in lineup:
                    _step(members, team, on_device, windows)
                telling.tell()
                progress.advance(batch_size)
                coming.pass_rows((number + 1) * batch_size)
                if mesh is not None:  # the ranks get a signal in different steps
                    stop_request.signal_number = mesh.any(stop_request.signal_number)
                if stop_request:
                    raise stop_request.stopped(_keep(runs))
    for run in runs:
        run.check_complete()
    telling.tell()
    return failed + [(run.planned.folder, run.fatal[0]) for run in runs if run.fatal]


def _step(members: Sequence[LiveRun], team: Team, rows: Tensor, windows: SharedWindows | None) -> None:
    """Makes one step of a team; if a component raises, its members stop and the other teams go on."""
    try:
        clean = members[0].windows_in(windows)  # a run with a tail is the only member of its team
        measurements = team.step(rows, [run.due for run in members], clean)
    except Exception as error:
        for run in members:
            run.failed_by(error)
        return
    for run, measurement in zip(members, measurements, strict=True):
        with run.stops_alone():
            run.after_step(measurement)


def _failure(planned: Planned, error: Exception) -> Failure:
    """Records that a component of a run raised `error` before the run could begin; otherwise raises it."""
    finding = raised_by_component(planned.recipe.config, error, "before the first step")
    if finding is None or planned.recipe.mesh is not None:
        raise error
    Health((finding,)).write(planned.folder)
    return planned.folder, finding


@contextmanager
def _keeping(runs: Sequence[LiveRun], stop_request: StopRequest, progress: Progress) -> Iterator[None]:
    """If no more batches will come, keeps a checkpoint of every unfinished run, and raises the reason."""
    try:
        yield
    except WaitEnded as ended:
        kept = _keep(runs)
        if ended.reason is None:
            raise stop_request.stopped(kept) from None
        progress.say(kept)
        raise ended.reason from None


def _keep(runs: Sequence[LiveRun]) -> str:
    """Writes a checkpoint of every unfinished run, and returns a sentence that says so."""
    unfinished = [run for run in runs if run.next_batch]
    for run in unfinished:
        run.save()
    if not unfinished:
        return "all runs begun so far are finished"
    steps = ((run.planned.folder, run.state.step, run.planned.recipe.num_steps) for run in unfinished)
    kept = [f"{folder} at step {step:,} of {num_steps:,}" for folder, step, num_steps in steps]
    return "kept a checkpoint of\n  " + "\n  ".join(kept)


def _team(members: Sequence[LiveRun], progress: Progress) -> Team:
    """Lets runs make their steps together from here on."""
    for run in members:
        run.joins_team(len(members))
    first = run_folder.label(members[0].planned.folder)
    return Team(
        [(run.planned.recipe, run.state) for run in members], lambda sentence: progress.say(f"{first}: {sentence}")
    )


def _print_invalid(folders: Sequence[Path], progress: Progress) -> None:
    """Prints prominently which runs cannot show what they were made to show."""
    by_run = {run_folder.label(folder): errors(Health.read(folder).findings) for folder in folders}
    num_invalid = sum(map(bool, by_run.values()))
    if num_invalid:
        broken = "; ".join(f"{group.where} ({group.rule})" for group in grouped(by_run))
        progress.say(f"{num_invalid} OF {len(folders)} RUNS CANNOT SHOW WHAT THEY WERE MADE TO SHOW: {broken}")


@contextmanager
def _task(progress: Progress, what: str, num_tokens: int, done: int) -> Iterator[None]:
    progress.start(what, num_tokens, "tokens", done)
    try:
        yield
    finally:
        progress.finish()


def check_folders(planned: Iterable[Planned], resume: ResumeMode) -> None:
    """Raises ConfigError if a folder holds another run, or `resume` forbids what it holds.

    Raises CorruptDataError if it holds a finished run that is damaged.
    """
    for run in planned:
        if is_committed(run.folder):
            check_undamaged(run.folder)
        _check_resume(run, resume)
        run_folder.refuse_other_run(run.folder, run.recipe.config, run.cache)


def _check_resume(run: Planned, resume: ResumeMode) -> None:
    begun = (run.folder / CONFIG).exists()
    if resume == "never" and begun:
        raise ConfigError(f"{run.folder} already holds a run", hint="remove it, or drop --resume never")
    if resume == "must" and not begun:
        raise ConfigError(f"{run.folder} holds no run to resume", hint="drop --resume must")
