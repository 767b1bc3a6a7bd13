"""Health rule H10: probes that do no better than chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from scipy import stats

from saepipe.data.folders.health import Finding
from saepipe.evaluate.metrics.sparse_probing.answers import Answers
from saepipe.evaluate.metrics.sparse_probing.probe_keys import FULL

SIGNIFICANCE = 0.025
"""Probability that the best of a dataset's probes seems better than chance on random labels."""
_SHARE_AT_CHANCE = 0.8
"""Share of datasets with probes at chance at which it becomes an error."""
_MAX_EQUAL = 3
"""Number of datasets that may agree in all their accuracies."""


def at_chance(answers: Answers) -> bool:
    """True if no probe of a dataset is more accurate than a constant probe might be by chance.

    For no probe does the mean accuracy over classes exceed the majority rate by z / (2 sqrt(n)), where n is the number
    of test texts of one class and z the normal quantile of 0.025 divided among the probes (2.7 for eight of them). This
    overestimates what chance can do: a mean over classes varies less than one class.
    """
    z = float(stats.norm.isf(SIGNIFICANCE / len(answers)))
    for by_class in answers.values():
        by_probe = list(by_class.values())
        accuracy = sum(answer.accuracy for answer in by_probe) / len(by_probe)
        majority = sum(answer.majority_rate for answer in by_probe) / len(by_probe)
        num_test = min(len(answer.rows) for answer in by_probe)
        if accuracy > majority + z / (2 * math.sqrt(num_test)):
            return False
    return True


def check_probes(sae: Mapping[str, Answers], llm: Mapping[str, Answers]) -> Iterator[Finding]:
    """Yields findings if the accuracies of an SAE's probes cannot belong to this SAE and these labels.

    Args:
        sae: answers of probes on its latents, by dataset.
        llm: answers of probes on the model's activations, which show whether labels or latents are to blame.
    """
    failed = [name for name, answers in sae.items() if at_chance(answers)]
    model_failed = [name for name in failed if at_chance(llm[name])]
    yield from check_share_at_chance(failed, model_failed, len(sae))
    yield from check_answers(sae)


def check_share_at_chance(failed: Sequence[str], model_failed: Sequence[str], num_datasets: int) -> Iterator[Finding]:
    """Yields a finding if an SAE's probes are at chance on most datasets.

    Args:
        failed: datasets on which no probe of the latents does better than guessing.
        model_failed: those of them on which no probe of the model's activations does either.
        num_datasets: number of datasets with probes.
    """
    if len(failed) >= _SHARE_AT_CHANCE * num_datasets > 0:
        yield _error(
            f"on {len(failed)} of {num_datasets} datasets ({', '.join(failed)}) no probe on the SAE's latents, "
            "whatever their number, does better than guessing; "
            + (
                f"on {len(model_failed)} of them nor does one on the model's own activations: check labels and texts"
                if model_failed
                else "probes on the model's own activations do: the latents are dead, or belong to another hook"
            )
        )


def check_answers(sae: Mapping[str, Answers]) -> Iterator[Finding]:
    """Yields findings about answers that are constant, and about datasets that agree in every accuracy."""
    for name, answers in sae.items():
        widest = answers.get(FULL) or next(reversed(answers.values()))
        if all(answer.is_constant for answer in widest.values()):
            yield _error(f"on {name} the probe on the most latents gives the same answer for every text")
    if len(equal := _largest_equal_group(sae)) > _MAX_EQUAL:
        yield _error(f"all accuracies are equal, to the last bit, on {len(equal)} datasets: {', '.join(equal)}")


def _largest_equal_group(sae: Mapping[str, Answers]) -> list[str]:
    """Returns the most datasets that agree in every accuracy; perfect accuracy on all of them is not suspicious."""
    groups: dict[tuple[float, ...], list[str]] = {}
    for name, answers in sae.items():
        values = [sum(a.accuracy for a in by_class.values()) / len(by_class) for by_class in answers.values()]
        if any(value < 1 for value in values):
            groups.setdefault(tuple(values), []).append(name)
    return max(groups.values(), key=len, default=[])


def _error(message: str) -> Finding:
    return Finding("H10", "error", message)
