"""Figures of one SAE over all attributes and classes, under SAEBench's keys and our own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from saepipe.data.folders.health import Finding
from saepipe.evaluate.metrics.base import Figure
from saepipe.evaluate.metrics.ravel.class_trial import AttributeOutcome, ClassTrial
from saepipe.evaluate.metrics.ravel.swap_scores import SCORES, SwapScores, estimates, mean_scores
from saepipe.evaluate.stats.intervals import Estimate

Outcomes = Sequence[Sequence[AttributeOutcome]]
"""Of one SAE: by class of entities, by measurable attribute."""

_UNDEFINED = Estimate(None, reason="no class has two attributes that the model knows; see saepipe.attributes")


def scores_of(outcomes: Outcomes) -> Mapping[str, Figure]:
    """Returns cause, isolation and disentanglement, averaged over attributes and then over classes as SAEBench does."""
    return _estimates([[outcome.scores for outcome in of_class] for of_class in outcomes])


def num_latents(outcomes: Outcomes) -> Figure:
    """Returns the mean number of latents selected for an attribute."""
    selected = [len(outcome.latents) for of_class in outcomes for outcome in of_class]
    return float(np.mean(selected)) if selected else _UNDEFINED


def model_figures(trials: Sequence[ClassTrial]) -> dict[str, Figure]:
    """Returns what depends on the model alone: its accuracy, and the scores of swapping whole activations."""
    whole = _estimates([list(trial.whole_swaps.values()) for trial in trials])
    asked = sum(sum(trial.known.num_asked) for trial in trials)
    return {
        "ravel_llm_accuracy": sum(len(trial.known.prompts) for trial in trials) / max(1, asked),
        "ravel_llm_swap_cause": whole["cause_score"],
        "ravel_llm_swap_isolation": whole["isolation_score"],
    }


def saebench_rows(trial: ClassTrial, outcomes: Sequence[AttributeOutcome]) -> dict[str, dict[str, float]]:
    """Returns the scores by class and attribute, as in SAEBench's `eval_result_unstructured`."""
    rows = {}
    for outcome in outcomes:
        scores = outcome.scores
        values = {"cause_score": scores.cause, "isolation_score": scores.isolation}
        values["disentangle_score"] = scores.disentanglement
        name = f"{trial.config.name}_{trial.config.attributes[outcome.attribute]}"
        rows[name] = {key: float(replicates[0]) for key, replicates in values.items()}
    return rows


def counts(trials: Sequence[ClassTrial]) -> dict[str, int]:
    """Returns the sizes of the samples."""
    return {
        "prompts": sum(sum(trial.known.num_asked) for trial in trials),
        "known_prompts": sum(len(trial.known.prompts) for trial in trials),
        "train_entities": sum(trial.num_entities(test=False) for trial in trials),
        "test_entities": sum(trial.num_entities(test=True) for trial in trials),
        "test_pairs": sum(trial.num_pairs(test=True) for trial in trials),
    }


def unmeasured_warnings(trials: Sequence[ClassTrial]) -> Iterator[str]:
    """Yields a sentence per attribute that is left out."""
    for trial in trials:
        for number, reason in trial.inputs.reasons.items():
            yield f"{trial.config.name}: {trial.config.attributes[number]} is not measured: {reason}"


def check_model(trials: Sequence[ClassTrial], min_whole_swap: float, metric: str) -> list[Finding]:
    """Checks H10: whether the model knows enough, and reads it from the hook at the entity, for any SAE to score."""
    if not any(trial.measurable for trial in trials):
        reasons = "; ".join(unmeasured_warnings(trials))
        return [Finding("H10", "error", f"the model knows too little to measure any SAE: {reasons}", evaluation=metric)]
    cause = model_figures(trials)["ravel_llm_swap_cause"]
    assert isinstance(cause, Estimate)
    assert cause.value is not None
    if cause.value >= min_whole_swap:
        return []
    message = (
        f"swapping the whole activation at the entity's last token changes {cause.value:.0%} of the answers to the "
        f"source's (required: {min_whole_swap:.0%}): above the hook the model hardly reads attributes there"
    )
    return [Finding("H10", "error", message, evaluation=metric)]


def _estimates(by_class: Sequence[Sequence[SwapScores]]) -> Mapping[str, Figure]:
    measured = [mean_scores(scores) for scores in by_class if scores]
    return estimates(mean_scores(measured)) if measured else dict.fromkeys(SCORES, _UNDEFINED)


def attribute_rows(trials: Sequence[ClassTrial], outcomes: Outcomes) -> list[dict[str, Any]]:
    """Returns one row of plain data per attribute of every class."""
    return [row for trial, of_class in zip(trials, outcomes, strict=True) for row in trial.rows(of_class)]
