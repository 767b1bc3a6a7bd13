"""Results of sparse probing under SAEBench's keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saepipe.evaluate.metrics.base import Figure, Measurement
from saepipe.evaluate.metrics.sparse_probing.accuracy import accuracy
from saepipe.evaluate.metrics.sparse_probing.answers import Answers
from saepipe.evaluate.metrics.sparse_probing.chance import at_chance, check_probes
from saepipe.evaluate.metrics.sparse_probing.dataset import ProbingDataset, ProbingSettings
from saepipe.evaluate.metrics.sparse_probing.probe_keys import FULL, PROBES, result_key
from saepipe.evaluate.stats import intervals as stats
from saepipe.evaluate.stats.intervals import Estimate

_MAX_LISTED_LATENTS = 10
"""Latents per class whose indices are in the result, those with the largest class difference first."""


def measurement(
    datasets: Sequence[ProbingDataset], sae: Mapping[str, Answers], d_sae: int, eval_config: dict[str, Any]
) -> Measurement:
    """Returns the measurement of one SAE from the answers of probes on its latents, by dataset."""
    llm = {dataset.name: dataset.llm for dataset in datasets}
    d_in = datasets[0].activations.x.shape[1]
    sides = {"llm": (llm, d_in), "sae": (sae, d_sae)}
    by_dataset: dict[str, dict[str, Estimate]] = {dataset.name: {} for dataset in datasets}
    metrics: dict[str, dict[str, Figure]] = {}
    for side, (answers, width) in sides.items():
        metrics[side] = {}
        for probe in PROBES:
            key = result_key(side, probe)
            for dataset in datasets:
                by_dataset[dataset.name][key] = _estimate(dataset.settings, answers[dataset.name], probe, width)
            metrics[side][key] = stats.average([estimates[key] for estimates in by_dataset.values()])
    return Measurement(
        metrics=metrics,
        details=[
            {"dataset_name": f"{name}_results"} | {key: estimate.value for key, estimate in estimates.items()}
            for name, estimates in by_dataset.items()
        ],
        unstructured={f"{name}_results": _by_class(llm[name], sae[name]) for name in by_dataset},
        more={"datasets": {d.name: _summary(d, by_dataset[d.name], sae[d.name]) for d in datasets}},
        findings=list(check_probes(sae, llm)),
        warnings=[
            f"on {name} no probe on the model's own activations does better than guessing: it says nothing about an SAE"
            for name in llm
            if at_chance(llm[name])
        ],
        counts={
            "datasets": len(datasets),
            "tasks": sum(len(dataset.tasks) for dataset in datasets),
            "texts": sum(len(dataset.texts.rows) for dataset in datasets),
        },
        eval_config=eval_config,
    )


def _estimate(settings: ProbingSettings, answers: Answers, probe: str, width: int) -> Estimate:
    if probe in answers:
        return accuracy(answers[probe].values())
    if probe == FULL:
        return Estimate(None, reason="full_probe is off")
    if int(probe) not in settings.ks:
        return Estimate(None, reason=f"k_values does not contain {probe}")
    return Estimate(None, reason=f"there are only {width} columns")


def _by_class(llm: Answers, sae: Answers) -> dict[str, dict[str, float]]:
    return {
        result_key(side, probe): {label: answer.accuracy for label, answer in answers[probe].items()}
        for side, answers in (("llm", llm), ("sae", sae))
        for probe in answers
    }


def _summary(dataset: ProbingDataset, estimates: Mapping[str, Estimate], sae: Answers) -> dict[str, Any]:
    """Returns source, sizes, intervals and latents of a dataset as plain data."""
    largest = max((probe for probe in sae if probe != FULL), key=int, default=None)
    tasks = {task.label: task for task in dataset.tasks}
    return {
        "origin": dataset.source_version,
        "num_train": {label: len(task.train.rows) for label, task in tasks.items()},
        "num_test": {label: len(task.test.rows) for label, task in tasks.items()},
        "majority_rate": {label: answer.majority_rate for label, answer in next(iter(sae.values())).items()},
        "left_out": dict(dataset.texts.left_out),
        "intervals": {key: [e.low, e.high] for key, e in estimates.items() if e.low is not None},
        "latents": {label: answer.columns[:_MAX_LISTED_LATENTS].tolist() for label, answer in sae[largest].items()}
        if largest and dataset.settings.sampling.mode == "fixed"
        else {},
    }
