"""A latent as a line of Neuronpedia's table Neuron, and its examples as lines of the table Activation.

How Neuronpedia's pages use some fields:
- topkCosSimIndices begins with the latent itself: apps/webapp/components/panes/cossim-pane.tsx skips the first value;
- binMin and binMax are activation bounds within which examples are listed, -1 in the top group, and binContains is
  the share of tokens within them (SAEDashboard's sequence_data_generator.py). Here the bounds separate the store's
  quantile groups, and the share is the density times the group's share of the sample;
- the bars of the activation histogram have equal widths, so the tokens of each of the store's bins, a quarter of an
  octave wide, are spread evenly over it;
- values are numbers: 0 if the store has none (special tokens, tokens that were not read), as in SAEDashboard at BOS.
  `notes` of the source says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from saepipe.evaluate.features.store import Example, Latent

Row = dict[str, Any]

_NUM_BARS = 50


def feature(latent: Latent) -> Row:
    """Returns a line of the table Neuron, without the fields that all lines share."""
    histogram = bars(latent)
    neighbours = [(latent.index, 1.0), *latent.neighbours] if latent.neighbours else []
    row: Row = {
        "index": str(latent.index),
        "maxActApprox": _short(latent.max_act or 0.0),
        "frac_nonzero": latent.density,
        "freq_hist_data_bar_heights": [_short(height) for height, _ in histogram],
        "freq_hist_data_bar_values": [_short(value) for _, value in histogram],
        "topkCosSimIndices": [index for index, _ in neighbours],
        "topkCosSimValues": [_short(cosine) for _, cosine in neighbours],
    }
    for sign, logits in (("pos", latent.positive_logits), ("neg", latent.negative_logits)):
        if logits is not None:  # None for every latent, or for none
            row |= {f"{sign}_str": [token for token, _ in logits], f"{sign}_values": [_short(v) for _, v in logits]}
    return row


def bars(latent: Latent) -> list[tuple[float, float]]:
    """Returns heights (tokens) and middles of the bars, from 0 to the largest activation; heights sum to num_active."""
    edges, counts = latent.histogram
    if not counts:
        return []
    bounds = [*edges[:-1], max(latent.max_act or 0.0, edges[-2])]  # no activation is beyond the largest
    below = np.concatenate([[0], np.cumsum(counts)])
    ends = np.linspace(0, bounds[-1], _NUM_BARS + 1)
    heights = np.diff(np.interp(ends, bounds, below))
    return list(zip(heights.tolist(), ((ends[1:] + ends[:-1]) / 2).tolist(), strict=True))


def activations(latent: Latent, run: str, source: str) -> list[Row]:
    """Returns lines of the table Activation, without shared fields; run and source are part of their ids."""
    groups = _groups(latent)
    return [
        {
            "id": _id(run, source, latent.index, number),
            "index": str(latent.index),
            **_text(example),
            **groups[example.group],
            "qualifyingTokenIndex": example.peak,
        }
        for number, example in enumerate(latent.examples)
    ]


def _groups(latent: Latent) -> Mapping[str, Row]:
    """Returns the bounds of each group of examples, and the share of tokens between them."""
    sample = [example for example in latent.examples if example.group != "top"]
    names = list(dict.fromkeys(example.group for example in sample))  # from weak to strong
    highest = [max(example.acts[example.peak] or 0.0 for example in sample if example.group == n) for n in names]
    bounds = [0.0, *highest]
    bounds[-1] = latent.max_act or 0.0
    groups: dict[str, Row] = {"top": _bin(-1, latent.max_act or 0.0, -1)}
    for name, (low, high) in zip(names, pairwise(bounds), strict=True):
        share = sum(example.group == name for example in sample) / len(sample)
        groups[name] = _bin(low, high, latent.density * share)
    return groups


def _bin(low: float, high: float, contains: float) -> Row:
    return {"binMin": _short(low), "binMax": _short(high), "binContains": _short(contains)}


def _text(example: Example) -> Row:
    values = [_short(act or 0.0) for act in example.acts]
    highest = max(values)
    extremes = {"maxValue": highest, "maxValueTokenIndex": values.index(highest), "minValue": min(values)}
    return {"tokens": example.tokens, "values": values, **extremes}


def _id(*parts: str | int) -> str:
    """Returns 25 letters and digits, like a cuid, but reproducible: importing twice adds nothing."""
    return "c" + hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:24]


def _short(value: float) -> float:
    """Rounds to four digits; the store's own activations have three."""
    return float(f"{value:.4g}")
