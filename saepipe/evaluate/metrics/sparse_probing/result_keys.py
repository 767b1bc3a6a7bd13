"""From answers to the keys of the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saepipe.evaluate.metrics.base import Figure, Measurement
from saepipe.evaluate.metrics.sparse_probing.accuracy import accuracy
from saepipe.evaluate.metrics.sparse_probing.answers import FULL, Answers
from saepipe.evaluate.metrics.sparse_probing.chance import at_chance, check_probes
from saepipe.evaluate.metrics.sparse_probing.dataset import Asked, DataSet
from saepipe.evaluate.stats import intervals as stats
from saepipe.evaluate.stats.intervals import Estimate

KS = (1, 2, 5, 10, 20, 50, 100)
"""Numbers of columns that SAEBench has keys for."""
PROBES = (FULL, *map(str, KS))

_NAMED_LATENTS = 10
"""The most telling ones of each class, whose numbers stand in the result."""


def measurement(
    datasets: Sequence[DataSet], found: Mapping[str, Answers], d_sae: int, eval_config: dict[str, Any]
) -> Measurement:
    """What the probes of one SAE's latents, by data set, come to."""
    llm = {dataset.asked.name: dataset.llm for dataset in datasets}
    d_in = datasets[0].activations.x.shape[1]
    sides = {"llm": (llm, d_in), "sae": (found, d_sae)}
    by_dataset: dict[str, dict[str, Estimate]] = {dataset.asked.name: {} for dataset in datasets}
    metrics: dict[str, dict[str, Figure]] = {}
    for side, (answers, width) in sides.items():
        metrics[side] = {}
        for probe in PROBES:
            key = key_of(side, probe)
            for dataset in datasets:
                by_dataset[dataset.asked.name][key] = _estimate(
                    dataset.asked, answers[dataset.asked.name], probe, width
                )
            metrics[side][key] = stats.average([figures[key] for figures in by_dataset.values()])
    return Measurement(
        metrics=metrics,
        details=[
            {"dataset_name": f"{name}_results"} | {key: figure.value for key, figure in figures.items()}
            for name, figures in by_dataset.items()
        ],
        unstructured={f"{name}_results": _by_class(llm[name], found[name]) for name in by_dataset},
        more={"datasets": {d.asked.name: _about(d, by_dataset[d.asked.name], found[d.asked.name]) for d in datasets}},
        findings=list(check_probes(found, llm)),
        warnings=[
            f"on {name} no probe of the model's own activations does better than guessing: it shows nothing of an SAE"
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


def key_of(side: str, probe: str) -> str:
    """SAEBench's name of an accuracy."""
    return f"{side}_test_accuracy" if probe == FULL else f"{side}_top_{probe}_test_accuracy"


def _estimate(asked: Asked, answers: Answers, probe: str, width: int) -> Estimate:
    if probe in answers:
        return accuracy(answers[probe].values())
    if probe == FULL:
        return Estimate(None, reason="full_probe is off")
    if int(probe) not in asked.ks:
        return Estimate(None, reason=f"k_values does not hold {probe}")
    return Estimate(None, reason=f"there are {width} columns only")


def _by_class(llm: Answers, sae: Answers) -> dict[str, dict[str, float]]:
    return {
        key_of(side, probe): {label: answer.accuracy for label, answer in answers[probe].items()}
        for side, answers in (("llm", llm), ("sae", sae))
        for probe in answers
    }


def _about(dataset: DataSet, figures: Mapping[str, Estimate], found: Answers) -> dict[str, Any]:
    """What the figures of a data set rest on."""
    largest = max((probe for probe in found if probe != FULL), key=int, default=None)
    tasks = {task.label: task for task in dataset.tasks}
    return {
        "origin": dataset.origin,
        "num_train": {label: len(task.train.rows) for label, task in tasks.items()},
        "num_test": {label: len(task.test.rows) for label, task in tasks.items()},
        "majority_rate": {label: answer.majority for label, answer in next(iter(found.values())).items()},
        "left_out": dict(dataset.texts.left_out),
        "intervals": {key: [e.low, e.high] for key, e in figures.items() if e.low is not None},
        "latents": {label: answer.columns[:_NAMED_LATENTS].tolist() for label, answer in found[largest].items()}
        if largest and dataset.asked.draw.mode == "fixed"
        else {},
    }
