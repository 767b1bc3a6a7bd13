"""H10: probes that know nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from scipy import stats

from saepipe.data.folders.health import Finding
from saepipe.evaluate.metrics.sparse_probing.answers import FULL, Answers

_CHANCE = 0.025
"""Of a data set of random labels seeming to be told apart, by the best of its probes."""
_SHARE = 0.8
"""Of the data sets, from which on probes at chance are an error."""
_EQUAL = 3
"""Data sets that may agree in all their accuracies."""


def at_chance(answers: Answers) -> bool:
    """Whether no probe of a data set gets more right than a probe that knows nothing might.

    Of no probe does the mean accuracy over classes exceed the majority rate by z / (2 sqrt(n)), n being the test texts
    of one class and z the normal quantile of 0.025, shared among the probes (2.7 for eight of them). That is generous
    to chance: a mean over classes varies less than one class.
    """
    z = float(stats.norm.isf(_CHANCE / len(answers)))
    for by_class in answers.values():
        given = list(by_class.values())
        accuracy = sum(answer.accuracy for answer in given) / len(given)
        majority = sum(answer.majority for answer in given) / len(given)
        num_test = min(len(answer.rows) for answer in given)
        if accuracy > majority + z / (2 * math.sqrt(num_test)):
            return False
    return True


def check_probes(sae: Mapping[str, Answers], llm: Mapping[str, Answers]) -> Iterator[Finding]:
    """Whether the accuracies of an SAE's probes, by data set, can be of this SAE and these labels.

    Args:
        sae: what probes of its latents said.
        llm: what probes of the model's activations said, which tell whether the labels or the latents are to blame.
    """
    lost = [name for name, answers in sae.items() if at_chance(answers)]
    if len(lost) >= _SHARE * len(sae):
        blind = [name for name in lost if at_chance(llm[name])]
        yield _error(
            f"on {len(lost)} of {len(sae)} data sets ({', '.join(lost)}) no probe of the SAE's latents, given any "
            "number of them, does better than guessing; "
            + (
                f"on {len(blind)} of them nor does one of the model's own activations: look at the labels and the texts"
                if blind
                else "those of the model's own activations do: the latents are dead, or of another hook"
            )
        )
    for name, answers in sae.items():
        widest = answers.get(FULL) or next(reversed(answers.values()))
        if all(answer.knows_nothing for answer in widest.values()):
            yield _error(f"on {name} the probe of the most latents says the same of every text")
    if len(twins := _most_alike(sae)) > _EQUAL:
        yield _error(f"all accuracies are equal, to the last bit, on {len(twins)} data sets: {', '.join(twins)}")


def _most_alike(sae: Mapping[str, Answers]) -> list[str]:
    """The largest group of data sets that agree in every accuracy; all of them right of everything is no wonder."""
    groups: dict[tuple[float, ...], list[str]] = {}
    for name, answers in sae.items():
        values = [sum(a.accuracy for a in by_class.values()) / len(by_class) for by_class in answers.values()]
        if any(value < 1 for value in values):
            groups.setdefault(tuple(values), []).append(name)
    return max(groups.values(), key=len, default=[])


def _error(message: str) -> Finding:
    return Finding("H10", "error", message)
