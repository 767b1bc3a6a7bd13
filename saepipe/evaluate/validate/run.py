"""Validation from arms to verdicts: chooses weights on some worlds, compares on others, then against a placebo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from saepipe.data.bucket_address import refuse_address
from saepipe.data.config.plugin_errors import defined_at, plugin_errors
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.stats.l0_curves import Curve, difference, why_not_covered
from saepipe.evaluate.stats.paired_seeds import mean
from saepipe.evaluate.validate.arm_table import KEYS, Row, Table
from saepipe.evaluate.validate.arms import ARMS, BASELINE, Arm, raw_config, select_arms
from saepipe.evaluate.validate.config import Baseline, ValidateConfig
from saepipe.evaluate.validate.trained_stacks import Outcome, StackJob, StackTrainer, Trial
from saepipe.train.config import TrainConfig, labels
from saepipe.train.control_kinds import PLACEBO
from saepipe.train.penalties.base import Penalty
from saepipe.train.penalties.contract import first_breach


@dataclass(frozen=True)
class Setup:
    """One arm with one baseline and one weight."""

    arm: Arm
    baseline: Baseline
    weight: float | None


@dataclass(frozen=True)
class TrialResult:
    """A trial of a setup, and its outcome."""

    setup: Setup
    trial: Trial
    outcome: Outcome


TrialRequest = tuple[Setup, Trial, tuple[float, ...]]
"""A trial to train, and the gradient shares that its penalty is steered to, if any."""

READING = (
    "intervals are 95 %, by Student's t over the differences of each seed; with many rows some exclude 0 by chance",
    "MCC, F1 and FVU are better or worse than the baseline's at the same L0; a control is a study's own setting",
)


def validate(names: Sequence[str], config: ValidateConfig, out: Path, *, progress: Progress) -> Table:
    """Compares the named arms (`all`, a penalty, or `absorption/lift`) with the baseline and with random pairs.

    An arm's weight is chosen with the first baseline that it supports. Placebos, and worlds beyond those on which
    weights are chosen, are trained with the config's first baseline only.

    Args:
        names: arms to validate.
        config: worlds, seeds, sparsities.
        out: folder; its `sweeps/` keeps every stack's outcomes, so that another call trains only new stacks.
        progress: receives the number of trained SAEs.

    Raises:
        ConfigError: if an arm is unknown, breaks the contract of penalties, or cannot be trained with its settings.
    """
    refuse_address(out)
    arms = select_arms(names)
    setups = [
        Setup(arm, baseline, weight) for arm in arms for baseline in _baselines(arm, config) for weight in _weights(arm)
    ]
    first = next(iter(config.baselines))
    for arm in arms:
        if arm not in ARMS:
            check_contract(arm)
    controls = [Setup(BASELINE, baseline, None) for baseline in config.baselines]
    to_choose = [
        setup for setup in setups if len(_weights(setup.arm)) > 1 and setup.baseline == _baselines(setup.arm, config)[0]
    ]
    choice_worlds = config.worlds_of_choice
    with StackTrainer(config, out / "sweeps", progress) as trainer:
        choice = train_setups(trainer, config, to_choose, choice_worlds, config.choice_seeds, progress)
        weights = {arm: _best_weight(arm, choice, config) for arm in arms}
        best = [setup for setup in setups if setup.weight == weights[setup.arm]]
        results = train_setups(trainer, config, [*controls, *best], choice_worlds, config.seeds, progress)
        on_first = [result for result in results if result.setup.baseline == first]
        placebos = train_placebos(trainer, config, on_first, progress)
        with_first = [setup for setup in (*controls, *best) if setup.baseline == first]
        other_worlds = tuple(world for world in config.worlds if world not in choice_worlds)
        results += train_setups(trainer, config, with_first, other_worlds, config.seeds, progress)
    rows = [
        _row(setup, world, config, results, placebos)
        for setup in best
        for world in (config.worlds if setup.baseline == first else choice_worlds)
    ]
    return Table(tuple(rows), config.to_dict(), READING)


def check_contract(arm: Arm) -> None:
    """Raises ConfigError if an external penalty breaks the contract: its results would mean nothing."""
    with plugin_errors():
        penalty = Penalty.member(arm.penalty["name"]).model_validate({"weight": 1.0, **arm.penalty})
        assert isinstance(penalty, Penalty)
        if breach := first_breach(penalty):
            raise ConfigError(f"penalty {arm.name} ({defined_at(type(penalty), '__call__')}): {breach}")


def _baselines(arm: Arm, config: ValidateConfig) -> list[Baseline]:
    return [baseline for baseline in config.baselines if baseline in arm.baselines]


def _weights(arm: Arm) -> tuple[float | None, ...]:
    return arm.weights if arm.kind == "added" else (None,)


def _trials(setup: Setup, config: ValidateConfig, worlds: Sequence[str], seeds: Sequence[int]) -> Iterator[Trial]:
    parts, key, values = raw_config(setup.arm, setup.baseline, config.baselines[setup.baseline], setup.weight)
    common = {
        "cache": "none",
        "steps": config.steps,
        "batch_size": config.batch_size,
        "optimizer": config.optimizer.to_dict(),
        "init": config.init.to_dict(),
        "device": "cpu",
    }
    for world, seed, value in product(worlds, seeds, values):
        sae, penalties = {**parts["sae"], "d_sae": config.d_sae}, [dict(penalty) for penalty in parts["penalties"]]
        if key == "sae.k":
            sae["k"] = value
        else:
            penalties[0]["weight"] = value
        raw = {**common, "sae": sae, "penalties": penalties, "seed": seed}
        yield Trial(world, seed, value, setup.weight, raw)


def train_setups(
    trainer: StackTrainer,
    config: ValidateConfig,
    setups: Sequence[Setup],
    worlds: Sequence[str],
    seeds: Sequence[int],
    progress: Progress,
) -> list[TrialResult]:
    """Trains every setup on these worlds and seeds, at each sparsity of its sweep."""
    requests = [(setup, trial, ()) for setup in setups for trial in _trials(setup, config, worlds, seeds)]
    return _train_stacks(trainer, config, requests, "train", progress)


def train_placebos(
    trainer: StackTrainer, config: ValidateConfig, results: Sequence[TrialResult], progress: Progress
) -> list[TrialResult]:
    """Trains each pair-selecting arm with as many random pairs instead, equally strong at each gradient measurement."""
    requests = []
    for setup in dict.fromkeys(result.setup for result in results if "num_pairs" in result.outcome.statistics):
        of_setup = [result for result in results if result.setup == setup]
        per_latent = fmean(result.outcome.statistics["num_pairs"] for result in of_setup) / config.d_sae
        random = {"name": PLACEBO, "weight": 1.0, "pairs_per_latent": min(max(1, round(per_latent)), config.d_sae // 3)}
        for result in of_setup:
            raw = result.trial.config | {"penalties": [*result.trial.config["penalties"][:-1], random]}
            requests.append((setup, replace(result.trial, config=raw), result.outcome.shares))
    return _train_stacks(trainer, config, requests, "placebo", progress)


def _train_stacks(
    trainer: StackTrainer, config: ValidateConfig, requests: Sequence[TrialRequest], label: str, progress: Progress
) -> list[TrialResult]:
    """Trains the requests in stacks, each of a single arm and architecture (k is part of the architecture)."""
    groups: dict[Any, list[TrialRequest]] = {}
    for request in requests:
        setup, trial, _ = request
        groups.setdefault((setup.arm.name, setup.baseline, repr(trial.config["sae"])), []).append(request)
    stacks = [
        group[start : start + config.stack] for group in groups.values() for start in range(0, len(group), config.stack)
    ]
    jobs = [_stack_job(stack) for stack in stacks]
    progress.start(label, len(requests), "SAEs")
    futures, counted = {}, set()
    for job, stack in zip(jobs, stacks, strict=True):
        future = trainer.submit(job)
        futures[future] = stack
        if future.done():  # kept by an earlier call, or trained in this process
            counted.add(future)
            future.result()
            progress.advance(len(stack))
    for future in as_completed(futures.keys() - counted):
        future.result()
        progress.advance(len(futures[future]))
    progress.finish()
    return [
        TrialResult(setup, trial, outcome)
        for future, stack in futures.items()
        for (setup, trial, _), outcome in zip(stack, future.result(), strict=True)
    ]


def _stack_job(stack: Sequence[TrialRequest]) -> StackJob:
    """Builds the stack's job. Parsing the config here reports wrong settings at once, not from another process."""
    setup, first, _ = stack[0]
    penalties = TrainConfig.parse(first.config).penalties
    watched = labels(penalties)[-1] if setup.arm.kind == "added" else None
    shares = tuple(shares for *_, shares in stack if shares)
    return StackJob(tuple(trial for _, trial, _ in stack), watched, shares)


def curves_of(results: Sequence[TrialResult], setup: Setup, world: str) -> list[Curve]:
    """Returns one curve per seed, in ascending order of seeds."""
    trials = [result for result in results if result.setup == setup and result.trial.world == world]
    return [
        Curve(tuple(r.outcome.metrics for r in trials if r.trial.seed == seed and r.outcome.metrics))
        for seed in sorted({r.trial.seed for r in trials})
    ]


def _best_weight(arm: Arm, choice: Sequence[TrialResult], config: ValidateConfig) -> float | None:
    """Returns the weight with the largest mean of MCC - absorbed at the matched L0, over worlds and seeds of choice.

    A weight that does not reach that L0 everywhere loses to any that does; if none does, the middle one is taken.
    """
    weights, baseline = _weights(arm), _baselines(arm, config)[0]
    scores = [_score(Setup(arm, baseline, weight), choice, config) for weight in weights]
    if len(weights) == 1 or max(scores) == float("-inf"):
        return weights[len(weights) // 2]
    return weights[scores.index(max(scores))]


def _score(setup: Setup, choice: Sequence[TrialResult], config: ValidateConfig) -> float:
    l0 = config.baselines[setup.baseline].l0
    curves = [curve for world in config.worlds_of_choice for curve in curves_of(choice, setup, world)]
    if not curves or why_not_covered(curves, l0):
        return float("-inf")
    return fmean(curve.at(l0, "mcc") - curve.at(l0, "absorbed") for curve in curves)


def _row(
    setup: Setup, world: str, config: ValidateConfig, results: Sequence[TrialResult], placebos: Sequence[TrialResult]
) -> Row:
    l0 = config.baselines[setup.baseline].l0
    curves, base = curves_of(results, setup, world), curves_of(results, Setup(BASELINE, setup.baseline, None), world)
    placebo = curves_of(placebos, setup, world)
    outcomes = [result.outcome for result in results if result.setup == setup and result.trial.world == world]
    shares = [share for outcome in outcomes for share in outcome.shares]
    pairs = [outcome.statistics["num_pairs"] for outcome in outcomes if "num_pairs" in outcome.statistics]
    why_not = why_not_covered([*curves, *base], l0)
    why_no_placebo = why_not_covered(placebo, l0) if placebo else None
    return Row(
        arm=setup.arm.name,
        control=setup.arm.control,
        baseline=setup.baseline,
        world=world,
        weight=setup.weight,
        l0=l0,
        seeds=config.num_seeds,
        share=fmean(shares) if shares else None,
        pairs=fmean(pairs) if pairs else None,
        identical=_identical(curves, base),
        why_not=why_not,
        why_no_placebo=why_no_placebo,
        arm_means={} if why_not else {key: mean([curve.at(l0, key) for curve in curves]) for key in KEYS},
        baseline_means={} if why_not else {key: mean([curve.at(l0, key) for curve in base]) for key in KEYS},
        differences={} if why_not else {key: difference(curves, base, l0, key) for key in KEYS},
        from_placebo={
            key: difference(curves, placebo, l0, key) for key in KEYS if placebo and not why_not and not why_no_placebo
        },
    )


def _identical(curves: Sequence[Curve], base: Sequence[Curve]) -> bool:
    """H2: returns whether the arm's SAEs equal the baseline's to the last digit."""
    return all(a.points == b.points for a, b in zip(curves, base, strict=True))
