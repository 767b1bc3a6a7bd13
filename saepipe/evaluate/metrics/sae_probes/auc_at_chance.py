"""Health rule H10 for probes that are judged by their AUC."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
from scipy import stats

from saepipe.data.folders.health import Finding
from saepipe.evaluate.metrics.sae_probes.probe_scores import ProbeScores
from saepipe.evaluate.metrics.sae_probes.scores import Scores, to_answers
from saepipe.evaluate.metrics.sparse_probing.chance import SIGNIFICANCE, check_answers, check_share_at_chance


def auc_at_chance(by_split: Mapping[str, Mapping[str, ProbeScores]]) -> bool:
    """True if no probe of a task has a better AUC than random scores might have.

    For no probe does the mean AUC over splits exceed 1/2 by z standard deviations that Mann and Whitney's statistic has
    for random scores, sqrt((n_pos + n_neg + 1) / (12 n_pos n_neg)) of the split with the largest, where z is the normal
    quantile of 0.025 divided among the probes. A probe may do better and still give one answer to all texts, as on
    imbalanced rows, so accuracy does not decide.
    """
    probes = {probe for by_probe in by_split.values() for probe in by_probe}
    z = float(stats.norm.isf(SIGNIFICANCE / len(probes)))
    for probe in probes:
        scores = [by_probe[probe] for by_probe in by_split.values()]
        if np.mean([score.auc for score in scores]) > 0.5 + z * max(map(_null_deviation, scores)):
            return False
    return True


def check_aucs(sae: Scores, llm: Scores) -> Iterator[Finding]:
    """Yields findings if the scores of an SAE's probes cannot belong to this SAE and these labels."""
    measured = {task: by_split for task, by_split in sae.items() if all(by_split.values())}
    failed = [task for task, by_split in measured.items() if auc_at_chance(by_split)]
    model_failed = [task for task in failed if auc_at_chance(llm[task])]
    yield from check_share_at_chance(failed, model_failed, len(measured))
    yield from check_answers(to_answers(measured))


def _null_deviation(score: ProbeScores) -> float:
    num_positive = int(score.answers.positive.sum())
    num_negative = len(score.answers.positive) - num_positive
    return math.sqrt((num_positive + num_negative + 1) / (12 * num_positive * num_negative))
