"""Accuracies with intervals over the sampling of a dataset's test texts."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch

from saepipe.evaluate.metrics.sparse_probing.answers import ProbeAnswers
from saepipe.evaluate.stats.intervals import Estimate, wilson


def accuracy(answers: Collection[ProbeAnswers]) -> Estimate:
    """Returns the mean over classes of the accuracies of one probe, with a 95 % interval over test texts.

    A text is a positive example of its class and a negative one of others, so texts vary, not answers. With acc_c over
    n_c texts of C classes, the accuracy's linearised variance over N texts is

        N / (N - 1) sum_t r_t^2,   r_t = sum_c [t in task c] (correct_ct - acc_c) / (n_c C)

    (Cochran, Sampling Techniques, 1977, section 6.3). The interval is Wilson's for the number of independent texts
    that would have this variance (Korn and Graubard, Survey Methodology 24, 1998), or for N if all answers agree.
    It covers evaluation noise only: the probes and the training texts are held fixed.
    """
    value = math.fsum(answer.accuracy for answer in answers) / len(answers)
    rows = torch.cat([answer.rows for answer in answers])
    texts, positions = torch.unique(rows, return_inverse=True)
    shares = [(answer.correct.double() - answer.accuracy) / (len(answer.rows) * len(answers)) for answer in answers]
    residuals = torch.zeros(len(texts), dtype=torch.float64).index_add(0, positions, torch.cat(shares))
    num_texts = len(texts)
    variance = num_texts / max(num_texts - 1, 1) * float(residuals.square().sum())
    return wilson(value, value * (1 - value) / variance if variance > 0 else num_texts)
