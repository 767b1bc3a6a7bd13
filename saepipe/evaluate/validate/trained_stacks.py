"""Small SAEs on worlds with known features, trained side by side; every stack's outcome is kept on disk."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import saepipe
from saepipe.data.config.base import fingerprint
from saepipe.data.config.component import import_plugins
from saepipe.data.folders.artifact import write_json
from saepipe.data.synthetic import Tokens, Truth, World, draw
from saepipe.evaluate.validate.config import ValidateConfig
from saepipe.evaluate.validate.truth_metrics import measure
from saepipe.train.config import TrainConfig
from saepipe.train.penalties.base import Penalty
from saepipe.train.seeds import generator
from saepipe.train.stacked.stack import Overrides, Stack
from saepipe.train.step.allocator import keep_freed_memory
from saepipe.train.step.init import center
from saepipe.train.step.state import Recipe, fresh_state, initial_params

CPU = torch.device("cpu")
TRAINED, HELD_OUT = 0, 1
"""Batches of a world's stream."""


@dataclass(frozen=True)
class Trial:
    """One SAE."""

    world: str
    seed: int  # of the world, the initialisation and the order of the tokens
    value: float  # of what is swept
    weight: float | None  # of the penalty that is judged
    config: dict[str, Any]  # of the training, as plain data


@dataclass(frozen=True)
class Job:
    """One stack of trials."""

    trials: tuple[Trial, ...]
    watched: str | None = None  # the label of the penalty whose gradient share is measured
    shares: tuple[tuple[float, ...], ...] = ()  # a trial's shares that the watched penalty's weight is steered to


@dataclass(frozen=True)
class Outcome:
    """What became of one trial."""

    metrics: dict[str, float]  # TruthMetrics; empty where training diverged
    shares: tuple[float, ...] = ()  # the watched penalty's gradient norm over the reconstruction's, at each look
    statistics: dict[str, float] = field(default_factory=dict)  # of the watched penalty, means over the looks


@dataclass(frozen=True)
class Place:
    """A world of one seed, with the tokens that every arm shares."""

    truth: Truth
    x: Tensor  # (pool, d_in) scaled
    scale: float
    b_dec: Tensor  # (d_in,) where it begins
    batches: Tensor  # (steps, batch) rows of x
    heldout: Tokens  # in raw units


class Laboratory:
    """Runs jobs in processes of one thread each; a job done before is read from `folder`."""

    def __init__(self, config: ValidateConfig, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Laboratory:
        workers = self._config.processes or torch.get_num_threads()
        if workers > 1:
            plugins = ([str(path) for path in self._config.plugins],)
            self._pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin, initargs=plugins)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, job: Job) -> Future[list[Outcome]]:
        """The outcomes of the job's trials, in their order."""
        path = self._folder / f"{_fingerprint(job, self._config)}.json"
        if self._pool is not None and not path.is_file():
            return self._pool.submit(_run_and_keep, job, self._config, path)
        done: Future[list[Outcome]] = Future()
        done.set_result(_kept(path) if path.is_file() else _run_and_keep(job, self._config, path))
        return done


def _begin(plugins: Sequence[str]) -> None:
    import_plugins([Path(path) for path in plugins])


def _kept(path: Path) -> list[Outcome]:
    return [
        Outcome(item["metrics"], tuple(item["shares"]), item["statistics"]) for item in json.loads(path.read_text())
    ]


def _run_and_keep(job: Job, config: ValidateConfig, path: Path) -> list[Outcome]:
    outcomes = run_alone(job, config)
    write_json(path, [asdict(outcome) for outcome in outcomes])
    return outcomes


def run_alone(job: Job, config: ValidateConfig) -> list[Outcome]:
    """`run` on one thread: the last digits of a sum depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run(job, config)
    finally:
        torch.set_num_threads(threads)


def run(job: Job, config: ValidateConfig) -> list[Outcome]:
    """Trains the job's trials side by side and measures each on its world's held-out tokens."""
    keep_freed_memory()
    names = sorted({(trial.world, trial.seed) for trial in job.trials})
    places = [place(config.worlds[world].model_dump_json(), seed, _sizes(config)) for world, seed in names]
    rows = torch.tensor([names.index((trial.world, trial.seed)) for trial in job.trials])
    recipes = [_recipe(trial, places[row]) for trial, row in zip(job.trials, rows.tolist(), strict=True)]
    begins = [{**initial_params(recipe), "b_dec": places[row].b_dec} for recipe, row in zip(recipes, rows, strict=True)]
    stack = Stack([(recipe, fresh_state(recipe, params)) for recipe, params in zip(recipes, begins, strict=True)])
    targets = torch.tensor(job.shares)  # (num_trials, num_looks), or empty
    overrides: Overrides = {}
    shares: list[Tensor] = []
    statistics: list[Mapping[str, Tensor]] = []
    for step in range(config.steps):
        x = torch.stack([here.x.index_select(0, here.batches[step]) for here in places])[rows]
        if job.watched and step % config.measure_every == 0:
            key = f"{job.watched}.weight"
            ones = {key: torch.ones(len(rows))} if job.shares else {}
            seen = stack.measure(x, ones)
            share = seen.share(job.watched)
            if job.shares:
                share = targets[:, step // config.measure_every]
                overrides = {key: share / seen.share(job.watched).clamp_min(1e-12)}
            shares.append(share)
            statistics.append(seen.statistics)
        stack.step(x, overrides)
    history = torch.stack(shares, dim=1) if shares else torch.empty(len(rows), 0)
    outcomes = []
    for index, (recipe, row) in enumerate(zip(recipes, rows.tolist(), strict=True)):
        prefix = f"{job.watched}/"
        mine = {
            key.removeprefix(prefix): float(sum(look[key][index] for look in statistics)) / len(statistics)
            for key in (statistics[0] if statistics else ())
            if key.startswith(prefix)
        }
        metrics = _judge(recipe, {name: value[index] for name, value in stack.params.items()}, places[row])
        outcomes.append(Outcome(metrics, tuple(history[index].tolist()), mine))
    return outcomes


def _judge(recipe: Recipe, params: dict[str, Tensor], here: Place) -> dict[str, float]:
    """The metrics of one SAE in raw units, at inference; none if it diverged."""
    if not all(bool(value.isfinite().all()) for value in params.values()):
        return {}
    sae, params = recipe.config.sae.inference(params)
    params = sae.unscaled(params, here.scale)
    acts = sae.encode(params, here.heldout.x)
    return measure(here.truth, here.heldout, acts, params["W_dec"], sae.decode(params, acts)).to_dict()


def _recipe(trial: Trial, here: Place) -> Recipe:
    config = TrainConfig.parse(trial.config).resolved(hook="world", num_rows=len(here.x), device=CPU)
    return Recipe(config, here.truth.d_in, here.scale, CPU)


def _sizes(config: ValidateConfig) -> tuple[int, int, int, int, str, int]:
    init = config.init
    return config.pool, config.heldout, config.steps, config.batch_size, init.b_dec, init.b_dec_rows


@cache
def place(world: str, seed: int, sizes: tuple[int, int, int, int, str, int]) -> Place:
    """A world's tokens, the same for every arm; `world` as JSON."""
    pool, heldout, steps, batch_size, b_dec, b_dec_rows = sizes
    truth = World.model_validate_json(world).truth(seed)
    x = draw(truth, seed, TRAINED, pool).x
    scale = float((truth.d_in / x.square().sum(1).mean()).sqrt())
    batches = torch.randint(pool, (steps, batch_size), generator=generator(seed, "batches"))
    begin = center(x[:b_dec_rows] * scale, b_dec)
    return Place(truth, x * scale, scale, begin, batches, draw(truth, seed, HELD_OUT, heldout))


def _fingerprint(job: Job, config: ValidateConfig) -> str:
    """Changes with everything that the outcome depends on, the code that computes it too."""
    worlds = {name: config.worlds[name].to_dict() for name in {trial.world for trial in job.trials}}
    penalties = {item["name"] for trial in job.trials for item in trial.config["penalties"]}
    return fingerprint(
        {
            "job": asdict(job),
            "worlds": worlds,
            "sizes": [*_sizes(config), config.measure_every],
            "torch": torch.__version__,
            "source": _source(),
            "penalties": {name: _digest(_file(Penalty.member(name))) for name in sorted(penalties)},
        }
    )


@cache
def _source() -> str:
    """Digest of the code that draws, trains and measures; penalties count one by one, where they are used."""
    root, here = Path(saepipe.__file__).parent, Path(__file__)
    paths = {*(root / "data" / "synthetic").glob("*.py"), *(root / "train").rglob("*.py")}
    paths -= {path for path in (root / "train" / "penalties").glob("*.py") if path.stem != "base"}
    paths |= {here, here.with_name("truth_metrics.py")}
    return hashlib.sha256("".join(_digest(path) for path in sorted(paths)).encode()).hexdigest()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _file(component: type) -> Path:
    return Path(str(sys.modules[component.__module__].__file__))
