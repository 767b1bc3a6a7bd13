"""Small SAEs trained side by side on worlds with known features; the outcomes of every stack are kept on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from saepipe.data.config.base import fingerprint
from saepipe.data.config.component import import_plugins
from saepipe.data.config.plugin_errors import plugin_errors
from saepipe.data.errors import CorruptDataError
from saepipe.data.folders.artifact import write_json
from saepipe.data.synthetic import Tokens, Truth, World, draw
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.evaluate.validate.code_digest import code_digest, penalty_digests
from saepipe.evaluate.validate.config import ValidateConfig
from saepipe.evaluate.validate.truth_metrics import measure
from saepipe.train.config import TrainConfig
from saepipe.train.seeds import generator
from saepipe.train.stacked.stack import Overrides, Stack
from saepipe.train.step.allocator import keep_freed_memory
from saepipe.train.step.init import center
from saepipe.train.step.state import Recipe, fresh_state, initial_params

CPU = torch.device("cpu")
TRAINED, HELD_OUT = 0, 1
"""Batch numbers of a world's stream."""


@dataclass(frozen=True)
class Trial:
    """One SAE to train."""

    world: str
    seed: int  # of the world, the initialisation and the order of the tokens
    value: float  # of the swept sparsity setting
    weight: float | None  # of the penalty under test
    config: dict[str, Any]  # of the training, as plain data


@dataclass(frozen=True)
class StackJob:
    """One stack of trials."""

    trials: tuple[Trial, ...]
    watched: str | None = None  # label of the penalty whose gradient share is measured
    shares: tuple[tuple[float, ...], ...] = ()  # per trial, the shares that the watched penalty's weight is steered to


@dataclass(frozen=True)
class Outcome:
    """Result of one trial."""

    metrics: dict[str, float]  # TruthMetrics; empty if training diverged
    shares: tuple[float, ...] = ()  # the watched penalty's gradient norm over the reconstruction's, at each measurement
    statistics: dict[str, float] = field(default_factory=dict)  # of the watched penalty, means over the measurements


@dataclass(frozen=True)
class WorldData:
    """A world of one seed, with the tokens that all arms share."""

    truth: Truth
    x: Tensor  # (pool, d_in) scaled
    scale: float
    b_dec: Tensor  # (d_in,) initial value
    batches: Tensor  # (steps, batch) rows of x
    heldout: Tokens  # in raw units


class StackTrainer:
    """Trains stacks in single-threaded processes; reads the outcomes of an earlier call from `folder`."""

    def __init__(self, config: ValidateConfig, folder: Path, progress: Progress | None = None) -> None:
        self._config, self._folder, self._progress = config, folder, progress or Silent()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> StackTrainer:
        workers = self._config.processes or torch.get_num_threads()
        if workers > 1:
            plugins = ([str(path) for path in self._config.plugins],)
            self._pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_init_worker, initargs=plugins)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, job: StackJob) -> Future[list[Outcome]]:
        """Returns the future outcomes of the job's trials, in their order."""
        path = self._folder / f"{_fingerprint(job, self._config)}.json"
        done: Future[list[Outcome]] = Future()
        if (outcomes := kept_outcomes(path, self._progress)) is not None:
            done.set_result(outcomes)
        elif self._pool is not None:
            return self._pool.submit(_train_and_store, job, self._config, path)
        else:
            done.set_result(_train_and_store(job, self._config, path))
        return done


def _init_worker(plugins: Sequence[str]) -> None:
    import_plugins([Path(path) for path in plugins])


def kept_outcomes(path: Path, progress: Progress) -> list[Outcome] | None:
    """Returns the outcomes of an earlier call; None if there are none, or if they are damaged, which is said."""
    if not path.is_file():
        return None
    try:
        return read_outcomes(path)
    except CorruptDataError as error:
        progress.say(f"{error.message}: these SAEs are trained again")
        return None


def read_outcomes(path: Path) -> list[Outcome]:
    """Reads the outcomes of a stack; raises CorruptDataError if the file was changed or damaged."""
    try:
        content = json.loads(path.read_bytes())
        outcomes = content if isinstance(content, list) else content["outcomes"]  # a list: of an earlier version
        if outcomes is content or content["digest"] == _outcomes_digest(outcomes):
            return [Outcome(item["metrics"], tuple(item["shares"]), item["statistics"]) for item in outcomes]
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise CorruptDataError(f"{path} was changed or damaged", hint="saepipe validate trains it again")


def _train_and_store(job: StackJob, config: ValidateConfig, path: Path) -> list[Outcome]:
    with plugin_errors():  # here, because another process cannot tell from the traceback
        outcomes = train_single_threaded(job, config)
    write_outcomes(path, outcomes)
    return outcomes


def write_outcomes(path: Path, outcomes: Sequence[Outcome]) -> None:
    plain = json.loads(json.dumps([asdict(outcome) for outcome in outcomes]))
    write_json(path, {"outcomes": plain, "digest": _outcomes_digest(plain)})


def _outcomes_digest(outcomes: Any) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(outcomes, sort_keys=True).encode())


def train_single_threaded(job: StackJob, config: ValidateConfig) -> list[Outcome]:
    """Runs `train_stack` on one thread, because the last digits of a sum depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return train_stack(job, config)
    finally:
        torch.set_num_threads(threads)


def train_stack(job: StackJob, config: ValidateConfig) -> list[Outcome]:
    """Trains the job's trials side by side and measures each on its world's held-out tokens."""
    keep_freed_memory()
    worlds = sorted({(trial.world, trial.seed) for trial in job.trials})
    data = [world_data(config.worlds[world].model_dump_json(), seed, _sizes(config)) for world, seed in worlds]
    rows = torch.tensor([worlds.index((trial.world, trial.seed)) for trial in job.trials])  # of `data`, by trial
    recipes = [_recipe(trial, data[row]) for trial, row in zip(job.trials, rows.tolist(), strict=True)]
    starts = [{**initial_params(recipe), "b_dec": data[row].b_dec} for recipe, row in zip(recipes, rows, strict=True)]
    stack = Stack([(recipe, fresh_state(recipe, params)) for recipe, params in zip(recipes, starts, strict=True)])
    targets = torch.tensor(job.shares)  # (num_trials, num_measurements), or empty
    overrides: Overrides = {}
    shares: list[Tensor] = []
    statistics: list[Mapping[str, Tensor]] = []
    for step in range(config.steps):
        x = torch.stack([world.x.index_select(0, world.batches[step]) for world in data])[rows]
        if job.watched and step % config.measure_every == 0:
            key = f"{job.watched}.weight"
            unit_weights = {key: torch.ones(len(rows))} if job.shares else {}
            measurement = stack.measure(x, unit_weights)
            share = measurement.share(job.watched)
            if job.shares:
                share = targets[:, step // config.measure_every]
                overrides = {key: share / measurement.share(job.watched).clamp_min(1e-12)}
            shares.append(share)
            statistics.append(measurement.statistics)
        stack.step(x, overrides)
    history = torch.stack(shares, dim=1) if shares else torch.empty(len(rows), 0)
    outcomes = []
    for index, (recipe, row) in enumerate(zip(recipes, rows.tolist(), strict=True)):
        prefix = f"{job.watched}/"
        means = {
            key.removeprefix(prefix): float(sum(values[key][index] for values in statistics)) / len(statistics)
            for key in (statistics[0] if statistics else ())
            if key.startswith(prefix)
        }
        metrics = _measure(recipe, {name: value[index] for name, value in stack.params.items()}, data[row])
        outcomes.append(Outcome(metrics, tuple(history[index].tolist()), means))
    return outcomes


def _measure(recipe: Recipe, params: dict[str, Tensor], data: WorldData) -> dict[str, float]:
    """Returns the metrics of one SAE in raw units, at inference; empty if it diverged."""
    if not all(bool(value.isfinite().all()) for value in params.values()):
        return {}
    sae, params = recipe.config.sae.inference(params)
    params = sae.unscaled(params, data.scale)
    acts = sae.encode(params, data.heldout.x)
    return measure(data.truth, data.heldout, acts, params["W_dec"], sae.decode(params, acts)).to_dict()


def _recipe(trial: Trial, data: WorldData) -> Recipe:
    config = TrainConfig.parse(trial.config).resolved(hook="world", num_rows=len(data.x), device=CPU)
    return Recipe(config, data.truth.d_in, data.scale, CPU)


def _sizes(config: ValidateConfig) -> tuple[int, int, int, int, str, int]:
    init = config.init
    return config.pool, config.heldout, config.steps, config.batch_size, init.b_dec, init.b_dec_rows


@cache
def world_data(world: str, seed: int, sizes: tuple[int, int, int, int, str, int]) -> WorldData:
    """Samples a world's tokens, which are the same for every arm; `world` is JSON."""
    pool, heldout, steps, batch_size, b_dec, b_dec_rows = sizes
    truth = World.model_validate_json(world).truth(seed)
    x = draw(truth, seed, TRAINED, pool).x
    scale = float((truth.d_in / x.square().sum(1).mean()).sqrt())
    batches = torch.randint(pool, (steps, batch_size), generator=generator(seed, "batches"))
    initial_b_dec = center(x[:b_dec_rows] * scale, b_dec)
    return WorldData(truth, x * scale, scale, initial_b_dec, batches, draw(truth, seed, HELD_OUT, heldout))


def _fingerprint(job: StackJob, config: ValidateConfig) -> str:
    """Returns a digest of everything that the outcome depends on, including the code that computes it."""
    worlds = {name: config.worlds[name].to_dict() for name in {trial.world for trial in job.trials}}
    penalties = {item["name"] for trial in job.trials for item in trial.config["penalties"]}
    return fingerprint(
        {
            "job": asdict(job),
            "worlds": worlds,
            "sizes": [*_sizes(config), config.measure_every],
            "torch": torch.__version__,
            "source": code_digest(Path(__file__), Path(__file__).with_name("truth_metrics.py")),
            "penalties": penalty_digests(penalties),
        }
    )
