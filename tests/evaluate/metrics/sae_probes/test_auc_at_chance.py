"""The level of an AUC that chance explains, by simulation, and findings about it."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import mannwhitneyu

from saepipe.evaluate.metrics.sae_probes.auc_at_chance import auc_at_chance, check_aucs
from saepipe.evaluate.metrics.sae_probes.probe_scores import ProbeScores
from saepipe.evaluate.metrics.sparse_probing.answers import ProbeAnswers


def score(auc: float, positive: np.ndarray, *, constant: bool = True) -> ProbeScores:
    """A probe that answers no to every text, or whose first answer alone is yes."""
    said = np.zeros(len(positive), bool)
    said[0] = not constant
    none = torch.zeros(1, dtype=torch.float64)
    rows, y = torch.arange(len(positive)), torch.from_numpy(positive)
    answers = ProbeAnswers(rows, torch.from_numpy(said == positive), y, none.long(), none, none[0])
    return ProbeScores(auc, float((said == positive).mean()), 0.5, 0.5, True, answers)


def test_random_scores_pass_one_time_in_forty() -> None:
    rng = np.random.default_rng(0)
    positive = np.arange(120) < 30
    aucs = [mannwhitneyu(x[positive], x[~positive]).statistic / (30 * 90) for x in rng.normal(size=(4000, 120))]
    passed = [not auc_at_chance({"normal": {"1": score(float(auc), positive)}}) for auc in aucs]
    assert 0.018 < np.mean(passed) < 0.032


def test_an_imbalanced_probe_is_judged_by_its_auc() -> None:
    """It says no to every text but one and is as accurate as the majority, and still ranks the texts well."""
    positive = np.arange(100) < 5
    good, bad = ({"a": {"positive=0.05": {"16": score(auc, positive, constant=False)}}} for auc in (0.9, 0.6))
    assert list(check_aucs(good, good)) == []
    (finding,) = check_aucs(bad, good)
    assert finding.rule == "H10"
    assert "probes on the model's own activations do" in finding.message
    (finding,) = check_aucs(bad, bad)
    assert "nor does one on the model's own activations" in finding.message


def test_an_answer_that_is_always_the_same() -> None:
    scores = {"a": {"normal": {"16": score(0.9, np.arange(100) < 50)}}}
    (finding,) = check_aucs(scores, scores)
    assert "gives the same answer for every text" in finding.message


def test_an_sae_without_probes_has_no_finding() -> None:
    assert list(check_aucs({"a": {"normal": {}}}, {})) == []
