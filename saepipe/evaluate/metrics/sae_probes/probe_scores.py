"""Answers of fitted probes on the test rows, and their scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saepipe.evaluate.metrics.sae_probes.binary_tasks import Task
from saepipe.evaluate.metrics.sae_probes.latent_ranking import ranked_latents
from saepipe.evaluate.metrics.sae_probes.logistic_probes import Penalty, fit_probe, has_converged
from saepipe.evaluate.metrics.sae_probes.splits import Split
from saepipe.evaluate.metrics.sparse_probing.answers import ProbeAnswers
from saepipe.evaluate.metrics.sparse_probing.probe_keys import FULL
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.stats.linear_probes import Scaling

SCORES = ("auc", "acc", "f1")
"""Scores on the test rows, by the package's names without `test_`."""


@dataclass(frozen=True)
class ProbeScores:
    """Scores of one probe on the test rows of one split, with what the health rules ask for."""

    auc: float
    acc: float
    f1: float
    """mean of both classes' F1, weighted by their test rows"""
    val_auc: float
    """NaN if the validation rows are of one class"""
    converged: bool
    answers: ProbeAnswers


@dataclass(frozen=True)
class ProbeSettings:
    """Settings of the probes that do not depend on the task."""

    ks: tuple[int, ...]
    penalty: Penalty
    binarize: bool
    seed: int
    mode: Mode


def sparse_scores(acts: Tensor, task: Task, split: Split, settings: ProbeSettings) -> dict[str, ProbeScores]:
    """Returns the scores of probes on the first k latents, for each k of at most d_sae, by k.

    Args:
        acts: (num_rows, d_sae) float32 of all rows of the dataset.
        task: chooses rows.
        split: chooses training and test rows among those.
        settings: of the probes.
    """
    acts, positive = acts[task.rows], torch.from_numpy(task.positive)
    order = ranked_latents(acts[split.train], positive[split.train])
    scores = {}
    for k in settings.ks:
        if k <= acts.shape[1]:
            x = acts[:, order[:k]]
            x = (x != 0).float() if settings.binarize else x
            scores[str(k)] = _scores(x, order[:k], task, split, settings.penalty, settings)
    return scores


def dense_scores(x: Tensor, task: Task, split: Split, settings: ProbeSettings) -> dict[str, ProbeScores]:
    """Returns the scores of the probe on all channels of the model, (num_rows, d_in), with an L2 penalty."""
    columns = torch.arange(x.shape[1])
    return {FULL: _scores(x[task.rows], columns, task, split, "l2", settings)}


def _scores(
    x: Tensor, columns: Tensor, task: Task, split: Split, penalty: Penalty, settings: ProbeSettings
) -> ProbeScores:
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    fixed = settings.mode == "fixed"
    x = Scaling.of(x[split.train])(x) if fixed else x.double()  # scikit-learn widens the package's torch tensors too
    x_train, x_test = x[split.train].numpy(), x[split.test].numpy()
    y_train, y_test = task.positive[split.train], task.positive[split.test]
    model, val_auc = fit_probe(x_train, y_train, penalty, settings.seed)
    predicted = model.predict(x_test)
    probability = model.decision_function(x_test) if fixed else model.predict_proba(x_test)[:, 1]  # that saturates at 1
    return ProbeScores(
        auc=float(roc_auc_score(y_test, probability)),
        acc=float(accuracy_score(y_test, predicted)),
        f1=float(f1_score(y_test, predicted, average="weighted")),
        val_auc=val_auc,
        converged=has_converged(model),
        answers=ProbeAnswers(
            rows=torch.from_numpy(task.rows[split.test]),
            correct=torch.from_numpy(predicted == y_test),
            positive=torch.from_numpy(y_test),
            columns=columns,
            weight=torch.from_numpy(model.coef_[0].astype(np.float64)),
            bias=torch.tensor(float(model.intercept_[0]), dtype=torch.float64),
        ),
    )
