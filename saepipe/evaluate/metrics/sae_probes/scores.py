"""Scores by task, split and probe: as stored work, and as the answers that the health rules of probing read."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from saepipe.evaluate.metrics.sae_probes.probe_scores import ProbeScores
from saepipe.evaluate.metrics.sparse_probing.answers import Answers, ProbeAnswers
from saepipe.evaluate.model.kept_work import Content

Scores = dict[str, dict[str, dict[str, ProbeScores]]]
"""Scores by task, split and probe."""

_NUMBERS = ("auc", "acc", "f1", "val_auc", "converged")


def each_score(scores: Scores) -> Iterator[tuple[str, str, str, ProbeScores]]:
    """Yields task, split, probe and its scores."""
    for task, by_split in scores.items():
        for split, by_probe in by_split.items():
            for probe, score in by_probe.items():
                yield task, split, probe, score


def to_answers(scores: Scores) -> dict[str, Answers]:
    """Returns by task the answers of each probe, with splits in place of classes."""
    by_task: dict[str, Answers] = {}
    for task, split, probe, score in each_score(scores):
        by_task.setdefault(task, {}).setdefault(probe, {})[split] = score.answers
    return by_task


def to_content(scores: Scores) -> Content:
    """Returns the stored form of scores, for `from_content`."""
    tensors, names = {}, []
    for number, (task, split, probe, score) in enumerate(each_score(scores)):
        names.append([task, split, probe])
        tensors[f"{number}.numbers"] = torch.tensor([getattr(score, name) for name in _NUMBERS], dtype=torch.float64)
        for field in ProbeAnswers.__dataclass_fields__:
            tensors[f"{number}.{field}"] = getattr(score.answers, field).clone()  # files share no memory
    return Content(tensors, {"names": names})


def from_content(content: Content) -> Scores:
    scores: Scores = {}
    for number, (task, split, probe) in enumerate(content.info["names"]):
        answers = ProbeAnswers(**{f: content.tensors[f"{number}.{f}"] for f in ProbeAnswers.__dataclass_fields__})
        auc, acc, f1, val_auc, converged = content.tensors[f"{number}.numbers"].tolist()
        score = ProbeScores(auc, acc, f1, val_auc, bool(converged), answers)
        scores.setdefault(task, {}).setdefault(split, {})[probe] = score
    return scores
