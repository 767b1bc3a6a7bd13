"""All rules that are applied to a finished run, and those that need only its config or its manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from saepipe.data.cache.cache import Cache
from saepipe.data.folders.health import Finding, Health, unusable
from saepipe.train.config import TrainConfig, labels
from saepipe.train.health.degenerate import check_behaviour, measure_behaviour, sample_rows
from saepipe.train.health.evidence import evidence
from saepipe.train.health.finished import check_finished
from saepipe.train.health.inertness import Line
from saepipe.train.health.log_lines import audit, check_log
from saepipe.train.health.twins import Twin, check_twins
from saepipe.train.penalties.l0 import L0
from saepipe.train.sae.base import Params
from saepipe.train.schedule import controllers
from saepipe.train.step.state import Recipe, TrainState


def doubts(config: TrainConfig) -> list[Finding]:
    """H4: doubts that the penalties raise from their settings alone."""
    return [
        Finding("H4", "warning", f"{label}: {doubt}", label)
        for label, penalty in zip(labels(config.penalties), config.penalties, strict=True)
        for doubt in penalty.doubts()
    ]


def check_commits(commits: Sequence[str]) -> list[Finding]:
    """H13: the run was begun and resumed with the same version of the source."""
    message = f"trained by more than one commit: {' then '.join(commits)}; retrain it with one"
    return [Finding("H13", "warning", message)] if len(commits) > 1 else []


def judge(
    recipe: Recipe,
    state: TrainState,
    initial: Params | None,
    lines: Sequence[Line],
    cache: Cache,
    twin: Twin,
    others: Iterable[Twin],
) -> Health:
    """Applies every rule to a run that has done its last step.

    Args:
        recipe: of the run.
        state: after the last step.
        initial: parameters at step 0, but for b_dec; None if they are not known any more.
        lines: of metrics.jsonl.
        cache: that it was trained on.
        twin: its name and config.
        others: finished runs to compare it with.
    """
    config, limits = recipe.config, recipe.config.health
    findings = check_finished(recipe, state, initial)
    if unusable(findings):
        return Health(tuple(findings))
    sae, params = config.sae.inference({name: value.detach() for name, value in state.all_params.items()})
    rows = (recipe.scaled(rows) for rows in sample_rows(cache, config.read_hooks, limits.heldout_tokens))
    behaviour = measure_behaviour(sae, params, rows, limits.dense_rate)
    dead = float((state.tokens_since_fired >= recipe.dead_after).double().mean())
    twin = Twin(twin.name, twin.config, evidence(config, recipe.num_steps, lines, params["W_dec"]))
    findings += check_log(config, recipe.num_steps, lines, limits, ended=True)
    findings += check_twins(twin, others, limits)
    findings += check_behaviour(behaviour, config.sae.d_sae, dead, l0_target(config), limits)
    return Health(tuple(findings), {"sae": asdict(behaviour), **audit(config, lines)}, twin.evidence)


def l0_target(config: TrainConfig) -> float | None:
    """Returns the L0 that a controller or the `l0` penalty's own target steers the run to, if there is one."""
    targets = [penalty.target for penalty in config.penalties if isinstance(penalty, L0)]
    for _, component in config.components():
        targets += [controller.to for controller in controllers(component).values() if controller.steer == "l0"]
    return next((target for target in targets if target is not None), None)
