"""A validation from arms to verdicts: choose settings on some worlds, compare on others, then against a placebo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.stats.l0_curves import Curve, difference, uncovered
from saepipe.evaluate.stats.paired_seeds import mean
from saepipe.evaluate.validate.arm_table import KEYS, Row, Table
from saepipe.evaluate.validate.arms import ARMS, BASELINE, Arm, chosen, raw_config
from saepipe.evaluate.validate.config import Baseline, ValidateConfig
from saepipe.evaluate.validate.trained_stacks import Job, Laboratory, Outcome, Trial
from saepipe.train.config import TrainConfig, labels
from saepipe.train.penalties.base import Penalty
from saepipe.train.penalties.contract import CHECKS

PLACEBO = "random_pairs"


@dataclass(frozen=True)
class Plan:
    """One arm against one baseline, with one weight."""

    arm: Arm
    baseline: Baseline
    weight: float | None


@dataclass(frozen=True)
class Run:
    """A trial and what became of it."""

    plan: Plan
    trial: Trial
    outcome: Outcome


Wanted = tuple[Plan, Trial, tuple[float, ...]]
"""What is to be trained, and the gradient shares that its penalty is steered to, if any."""

READING = (
    "intervals are 95 %, by Student's t over the differences of each seed; with many rows some exclude 0 by chance",
    "MCC, F1 and FVU are better or worse than the baseline's at the same L0; a control is a study's own setting",
)


def validate(names: Sequence[str], config: ValidateConfig, out: Path, *, progress: Progress) -> Table:
    """Compares the named arms (`all`, a penalty, or `absorption/lift`) with the baseline and with random pairs.

    The first baseline that an arm has is where its weight is chosen. With the config's first, there are placebos, and
    the worlds beyond those of the choice.

    Args:
        names: what to validate.
        config: worlds, seeds, sparsities.
        out: `sweeps/` there keeps every stack's outcome, so that another call pays only for what is new.
        progress: told of each stack that is done.

    Raises:
        ConfigError: if an arm is unknown, or cannot be trained as its settings are.
    """
    arms = chosen(names)
    plans = [
        Plan(arm, baseline, weight) for arm in arms for baseline in _baselines(arm, config) for weight in _weights(arm)
    ]
    first = next(iter(config.baselines))
    broken = [why for arm in arms if arm not in ARMS for why in _broken(arm)]
    controls = [Plan(BASELINE, baseline, None) for baseline in config.baselines]
    choosing = [
        plan for plan in plans if len(_weights(plan.arm)) > 1 and plan.baseline == _baselines(plan.arm, config)[0]
    ]
    with Laboratory(config, out / "sweeps") as lab:
        choice = _train(lab, config, choosing, config.chosen_on, config.choice_seeds, progress)
        weights = {arm: _best(arm, choice, config) for arm in arms}
        best = [plan for plan in plans if plan.weight == weights[plan.arm]]
        runs = _train(lab, config, [*controls, *best], config.chosen_on, config.seeds, progress)
        placebos = _placebos(lab, config, [run for run in runs if run.plan.baseline == first], progress)
        beyond = [plan for plan in (*controls, *best) if plan.baseline == first]
        further = tuple(world for world in config.worlds if world not in config.chosen_on)
        runs += _train(lab, config, beyond, further, config.seeds, progress)
    rows = [
        _row(plan, world, config, runs, placebos)
        for plan in best
        for world in (config.worlds if plan.baseline == first else config.chosen_on)
    ]
    return Table(tuple(rows), config.to_dict(), (*broken, *READING))


def _broken(arm: Arm) -> Iterator[str]:
    """Where a penalty from outside breaks the contract that the tests hold our own to: its figures then say nothing."""
    penalty = Penalty.member(arm.penalty["name"]).model_validate({"weight": 1.0, **arm.penalty})
    assert isinstance(penalty, Penalty)
    for name, check in CHECKS.items():
        if why := check(penalty):
            yield f"{arm.name} breaks the contract ({name}): {why}"


def _baselines(arm: Arm, config: ValidateConfig) -> list[Baseline]:
    return [baseline for baseline in config.baselines if baseline in arm.baselines]


def _weights(arm: Arm) -> tuple[float | None, ...]:
    return arm.weights if arm.kind == "added" else (None,)


def _trials(plan: Plan, config: ValidateConfig, worlds: Sequence[str], seeds: Sequence[int]) -> Iterator[Trial]:
    parts, key, values = raw_config(plan.arm, plan.baseline, config.baselines[plan.baseline], plan.weight)
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
        yield Trial(world, seed, value, plan.weight, raw)


def _train(
    lab: Laboratory,
    config: ValidateConfig,
    plans: Sequence[Plan],
    worlds: Sequence[str],
    seeds: Sequence[int],
    progress: Progress,
) -> list[Run]:
    wanted = [(plan, trial, ()) for plan in plans for trial in _trials(plan, config, worlds, seeds)]
    return _gather(lab, config, wanted, "train", progress)


def _placebos(lab: Laboratory, config: ValidateConfig, runs: Sequence[Run], progress: Progress) -> list[Run]:
    """Each penalty that chooses pairs, with as many random ones instead, as strong at every look at the gradients."""
    wanted = []
    for plan in dict.fromkeys(run.plan for run in runs if "num_pairs" in run.outcome.statistics):
        mine = [run for run in runs if run.plan == plan]
        a_latent = fmean(run.outcome.statistics["num_pairs"] for run in mine) / config.d_sae
        random = {"name": PLACEBO, "weight": 1.0, "pairs_per_latent": min(max(1, round(a_latent)), config.d_sae // 3)}
        for run in mine:
            raw = run.trial.config | {"penalties": [*run.trial.config["penalties"][:-1], random]}
            wanted.append((plan, replace(run.trial, config=raw), run.outcome.shares))
    return _gather(lab, config, wanted, "placebo", progress)


def _gather(
    lab: Laboratory, config: ValidateConfig, wanted: Sequence[Wanted], what: str, progress: Progress
) -> list[Run]:
    """Trains what is wanted in stacks: those of one arm and one architecture together (k is part of it)."""
    stacks: dict[Any, list[Wanted]] = {}
    for item in wanted:
        plan, trial, _ = item
        stacks.setdefault((plan.arm.name, plan.baseline, repr(trial.config["sae"])), []).append(item)
    parts = [
        stack[begin : begin + config.stack] for stack in stacks.values() for begin in range(0, len(stack), config.stack)
    ]
    futures = {lab.submit(_job(part)): part for part in parts}
    progress.start(what, len(wanted), "SAEs")
    for future in as_completed(futures):
        future.result()
        progress.advance(len(futures[future]))
    progress.finish()
    return [
        Run(plan, trial, outcome)
        for future, stack in futures.items()
        for (plan, trial, _), outcome in zip(stack, future.result(), strict=True)
    ]


def _job(stack: Sequence[Wanted]) -> Job:
    """Reading the config here tells at once, and not in another process, what is wrong with an arm's settings."""
    plan, first, _ = stack[0]
    penalties = TrainConfig.parse(first.config).penalties
    watched = labels(penalties)[-1] if plan.arm.kind == "added" else None
    steered = tuple(shares for *_, shares in stack if shares)
    return Job(tuple(trial for _, trial, _ in stack), watched, steered)


def _curves(runs: Sequence[Run], plan: Plan, world: str) -> list[Curve]:
    """One a seed, in the seeds' order."""
    mine = [run for run in runs if run.plan == plan and run.trial.world == world]
    return [
        Curve(tuple(run.outcome.metrics for run in mine if run.trial.seed == seed and run.outcome.metrics))
        for seed in sorted({run.trial.seed for run in mine})
    ]


def _best(arm: Arm, choice: Sequence[Run], config: ValidateConfig) -> float | None:
    """The weight with the largest mean of MCC - absorbed at the matched L0, over the worlds and seeds of the choice.

    A weight that does not reach that L0 everywhere loses to any that does; of several such, the middle one is taken.
    """
    weights, baseline = _weights(arm), _baselines(arm, config)[0]
    scores = [_score(Plan(arm, baseline, weight), choice, config) for weight in weights]
    if len(weights) == 1 or max(scores) == float("-inf"):
        return weights[len(weights) // 2]
    return weights[scores.index(max(scores))]


def _score(plan: Plan, choice: Sequence[Run], config: ValidateConfig) -> float:
    l0 = config.baselines[plan.baseline].l0
    curves = [curve for world in config.chosen_on for curve in _curves(choice, plan, world)]
    if not curves or uncovered(curves, l0):
        return float("-inf")
    return fmean(curve.at(l0, "mcc") - curve.at(l0, "absorbed") for curve in curves)


def _row(plan: Plan, world: str, config: ValidateConfig, runs: Sequence[Run], placebos: Sequence[Run]) -> Row:
    l0 = config.baselines[plan.baseline].l0
    mine, base = _curves(runs, plan, world), _curves(runs, Plan(BASELINE, plan.baseline, None), world)
    placebo = _curves(placebos, plan, world)
    outcomes = [run.outcome for run in runs if run.plan == plan and run.trial.world == world]
    shares = [share for outcome in outcomes for share in outcome.shares]
    pairs = [outcome.statistics["num_pairs"] for outcome in outcomes if "num_pairs" in outcome.statistics]
    why = uncovered([*mine, *base], l0)
    why_not_placebo = uncovered(placebo, l0) if placebo else None
    return Row(
        arm=plan.arm.name,
        control=plan.arm.control,
        baseline=plan.baseline,
        world=world,
        weight=plan.weight,
        l0=l0,
        seeds=config.num_seeds,
        share=fmean(shares) if shares else None,
        pairs=fmean(pairs) if pairs else None,
        identical=_identical(mine, base),
        why_not=why,
        why_no_placebo=why_not_placebo,
        arm_means={} if why else {key: mean([curve.at(l0, key) for curve in mine]) for key in KEYS},
        baseline_means={} if why else {key: mean([curve.at(l0, key) for curve in base]) for key in KEYS},
        differences={} if why else {key: difference(mine, base, l0, key) for key in KEYS},
        from_placebo={
            key: difference(mine, placebo, l0, key) for key in KEYS if placebo and not why and not why_not_placebo
        },
    )


def _identical(mine: Sequence[Curve], base: Sequence[Curve]) -> bool:
    """H2: the arm's SAEs are the baseline's, to the last digit."""
    return all(a.points == b.points for a, b in zip(mine, base, strict=True))
