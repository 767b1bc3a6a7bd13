"""Results of sae_probes: figures over tasks under the package's names, and entries by task and split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from saepipe.evaluate.metrics.base import Figure, Measurement
from saepipe.evaluate.metrics.sae_probes.auc_at_chance import auc_at_chance, check_aucs
from saepipe.evaluate.metrics.sae_probes.binary_tasks import Task
from saepipe.evaluate.metrics.sae_probes.probe_scores import SCORES, ProbeScores, ProbeSettings
from saepipe.evaluate.metrics.sae_probes.probed_dataset import ProbedDataset
from saepipe.evaluate.metrics.sae_probes.scores import Scores, each_score
from saepipe.evaluate.metrics.sparse_probing.probe_keys import FULL
from saepipe.evaluate.stats.intervals import Estimate, ratio

_MAX_LISTED_LATENTS = 16
"""Latents per task and split whose indices are in the result, those with the largest class difference first."""


def figure_key(probe: str, score: str) -> str:
    """Returns `sae_probes_top_16_test_auc`, or `sae_probes_llm_test_auc` for the probe on all channels of the model."""
    return f"sae_probes_{'llm' if probe == FULL else f'top_{probe}'}_test_{score}"


def measurement(
    datasets: Sequence[ProbedDataset], sae: Scores, d_sae: int, settings: ProbeSettings, eval_config: dict[str, Any]
) -> Measurement:
    """Returns the measurement of one SAE from the scores of probes on its latents."""
    llm: Scores = {name: by_split for dataset in datasets for name, by_split in dataset.llm.items()}
    fits = [score for _, _, _, score in each_score(sae)]
    return Measurement(
        metrics={
            "llm": _figures(llm, [FULL], d_sae),
            "sae": _figures(sae, [str(k) for k in settings.ks], d_sae),
        },
        details=list(_details(llm, sae)),
        more={"tasks": {t.name: _summary(dataset, t, sae[t.name]) for dataset in datasets for t in dataset.tasks}},
        findings=list(check_aucs(sae, llm)),
        warnings=[
            f"on {name} no probe on the model's own activations does better than guessing: it says nothing about an SAE"
            for name, by_split in llm.items()
            if auc_at_chance(by_split)
        ],
        counts={
            "datasets": len(datasets),
            "tasks": len(sae),
            "texts": sum(len(dataset.x) for dataset in datasets),
            "probes": len(fits),
            "unconverged_probes": sum(not score.converged for score in fits),
        },
        eval_config=eval_config,
    )


def _figures(scores: Scores, probes: Sequence[str], d_sae: int) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for probe in probes:
        by_task = [
            [by_probe[probe] for by_probe in by_split.values()]
            for by_split in scores.values()
            if all(probe in by_probe for by_probe in by_split.values())
        ]
        for name in SCORES:
            values = [float(np.mean([getattr(score, name) for score in of_task])) for of_task in by_task]
            figures[figure_key(probe, name)] = _over_tasks(values, f"there are only {d_sae} latents")
    return figures


def _over_tasks(values: Sequence[float], undefined: str) -> Estimate:
    """Returns the mean over tasks with Student's interval for other tasks of their kind, within [0, 1]."""
    estimate = ratio(np.array(values), np.ones(len(values)), undefined)
    if estimate.low is None or estimate.high is None:
        return estimate
    return replace(estimate, low=max(0.0, estimate.low), high=min(1.0, estimate.high))


def _details(llm: Scores, sae: Scores) -> Iterator[dict[str, Any]]:
    """Yields one entry per task and split with all figures of it."""
    for task, by_split in sae.items():
        for split, by_probe in by_split.items():
            entry: dict[str, Any] = {"dataset_name": task, "split": split}
            for probe, score in {**llm[task][split], **by_probe}.items():
                entry |= {figure_key(probe, name): getattr(score, name) for name in SCORES}
                entry[figure_key(probe, "auc").replace("test", "val")] = _or_none(score)
            yield entry


def _or_none(score: ProbeScores) -> float | None:
    return None if math.isnan(score.val_auc) else score.val_auc


def _summary(dataset: ProbedDataset, task: Task, by_split: Mapping[str, Mapping[str, ProbeScores]]) -> dict[str, Any]:
    """Returns source, sizes and latents of a task as plain data."""
    widest = {split: list(by_probe.values())[-1] for split, by_probe in by_split.items() if by_probe}
    return {
        "origin": dataset.source_version,
        "positive_class": task.positive_class,
        "num_train": {split.name: len(split.train) for split in dataset.splits[task.name]},
        "num_test": {split.name: len(split.test) for split in dataset.splits[task.name]},
        "latents": {split: score.answers.columns[:_MAX_LISTED_LATENTS].tolist() for split, score in widest.items()},
    }
