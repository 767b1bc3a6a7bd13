"""Scores of probes against plain scikit-learn, and what mode fixed changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from saepipe.evaluate.metrics.sae_probes.binary_tasks import Task
from saepipe.evaluate.metrics.sae_probes.probe_scores import ProbeSettings, dense_scores, sparse_scores
from saepipe.evaluate.metrics.sae_probes.splits import Split, splits
from saepipe.evaluate.metrics.sparse_probing.probe_keys import FULL

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

NUM_ROWS = 260
TASK = Task("made", "yes", np.arange(NUM_ROWS), np.arange(NUM_ROWS) % 2 == 1)
REFERENCE = ProbeSettings((1, 3, 40), "l2", False, 42, "reference")
FIXED = replace(REFERENCE, mode="fixed")


@pytest.fixture(scope="module")
def acts() -> torch.Tensor:
    """(num_rows, 12) float32, columns of very different size, the later ones with less about the class."""
    rng = np.random.default_rng(0)
    signal = TASK.positive[:, None] * np.linspace(1, 0, 12)
    return torch.from_numpy(np.maximum(rng.normal(size=(NUM_ROWS, 12)) + signal, 0) * np.logspace(-2, 1, 12)).float()


@pytest.fixture(scope="module")
def split() -> Split:
    (split,) = splits(TASK, "normal", 42)
    return split


@pytest.mark.parametrize(("penalty", "binarize"), [("l1", False), ("l2", False), ("l2", True)])
def test_mode_reference_is_plain_scikit_learn(acts: torch.Tensor, split: Split, penalty: str, binarize: bool) -> None:
    settings = replace(REFERENCE, ks=(3,), penalty=penalty, binarize=binarize)
    score = sparse_scores(acts, TASK, split, settings)["3"]
    x = acts.double().numpy()[:, score.answers.columns]  # float32 would end elsewhere
    x = (x != 0) * 1.0 if binarize else x
    (x_train, y_train), (x_test, y_test) = ((x[rows], TASK.positive[rows]) for rows in (split.train, split.test))

    def model(C: float) -> LogisticRegression:
        more = {"l1_ratio": 1, "solver": "saga"} if penalty == "l1" else {}
        return LogisticRegression(C=C, random_state=42, max_iter=1000, **more)

    def val_auc(C: float) -> float:
        fitted = model(C).fit(x_train[:128], y_train[:128])
        return float(roc_auc_score(y_train[128:], fitted.predict_proba(x_train[128:])[:, 1]))

    aucs = {C: val_auc(C) for C in np.logspace(5, -5, 10)}
    order = np.random.RandomState(42).permutation(160)
    best = model(max(aucs, key=lambda C: aucs[C])).fit(x_train[order], y_train[order])
    assert score.val_auc == pytest.approx(max(aucs.values()), abs=1e-12)
    assert score.auc == pytest.approx(roc_auc_score(y_test, best.predict_proba(x_test)[:, 1]), abs=1e-12)
    assert score.acc == accuracy_score(y_test, best.predict(x_test)) == score.answers.accuracy
    assert score.f1 == pytest.approx(f1_score(y_test, best.predict(x_test), average="weighted"), abs=1e-12)
    np.testing.assert_allclose(score.answers.weight, best.coef_[0], rtol=1e-12)
    assert score.answers.rows.tolist() == split.test.tolist()


def test_probes_read_the_first_latents_of_one_order(acts: torch.Tensor, split: Split) -> None:
    scores = sparse_scores(acts, TASK, split, REFERENCE)
    assert list(scores) == ["1", "3"]  # 40 latents are more than there are
    assert scores["3"].answers.columns[:1].tolist() == scores["1"].answers.columns.tolist()


def test_the_dense_probe_has_an_l2_penalty_whatever_the_sparse_ones_have(acts: torch.Tensor, split: Split) -> None:
    (by_l1,), (by_l2,) = (
        dense_scores(acts, TASK, split, replace(REFERENCE, penalty=penalty)).values() for penalty in ("l1", "l2")
    )
    assert torch.equal(by_l1.answers.weight, by_l2.answers.weight)
    assert len(by_l1.answers.weight) == 12


def test_mode_fixed_does_not_depend_on_the_scale_of_a_latent(acts: torch.Tensor, split: Split) -> None:
    """In mode reference the penalty and the solver do."""
    scaled = acts * 2.0 ** torch.arange(-6, 6)
    for settings, is_equal in ((FIXED, True), (REFERENCE, False)):
        settings = replace(settings, penalty="l1", ks=(3,))
        before, after = (sparse_scores(x, TASK, split, settings)["3"] for x in (acts, scaled))
        assert before.answers.columns.tolist() == after.answers.columns.tolist()
        assert (before.auc == pytest.approx(after.auc, abs=1e-9)) is is_equal


def test_mode_fixed_ranks_texts_whose_probability_is_one(split: Split) -> None:
    """A positive text is above all others by its logit, while the probability of half of them is 1 in float64."""
    x = torch.where(torch.from_numpy(TASK.positive), 1.0, -1.0)[:, None].clone()
    x[split.test] *= 1e4
    negative = int(split.test[~TASK.positive[split.test]][0])
    x[negative] = 0.9e4
    reference, fixed = (dense_scores(x, TASK, split, settings)[FULL] for settings in (REFERENCE, FIXED))
    assert fixed.auc == 1
    assert reference.auc == pytest.approx(1 - 0.5 / (~TASK.positive[split.test]).sum())
