"""A latent as a line of Neuronpedia's table Neuron, and its examples as lines of the table Activation.

What its pages make of some fields:
- topkCosSimIndices begins with the latent itself: apps/webapp/components/panes/cossim-pane.tsx skips the first value;
- binMin and binMax are bounds of activation within which examples are listed, -1 in the top group, and binContains is
  the share of tokens there (SAEDashboard's sequence_data_generator.py). Here the bounds lie between the store's
  quantile groups, and the share is the density times the group's part of the sample;
- the bars of the histogram of activations are of one width, so the store's bins, a quarter of an octave each, are
  spread out evenly within themselves;
- values are numbers: where the store knows none (special tokens, tokens that were not read), 0 as SAEDashboard has it
  at BOS. `notes` of the source says so.
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
    """A line of the table Neuron, less what all lines share."""
    drawn = bars(latent)
    near = [(latent.index, 1.0), *latent.neighbours] if latent.neighbours else []
    row: Row = {
        "index": str(latent.index),
        "maxActApprox": _short(latent.max_act or 0.0),
        "frac_nonzero": latent.density,
        "freq_hist_data_bar_heights": [_short(height) for height, _ in drawn],
        "freq_hist_data_bar_values": [_short(value) for _, value in drawn],
        "topkCosSimIndices": [index for index, _ in near],
        "topkCosSimValues": [_short(cosine) for _, cosine in near],
    }
    for sign, logits in (("pos", latent.positive_logits), ("neg", latent.negative_logits)):
        if logits is not None:  # of no latent, then
            row |= {f"{sign}_str": [token for token, _ in logits], f"{sign}_values": [_short(v) for _, v in logits]}
    return row


def bars(latent: Latent) -> list[tuple[float, float]]:
    """Heights (tokens) and middles of the bars, from 0 to the largest activation; the heights add up to num_active."""
    edges, counts = latent.histogram
    if not counts:
        return []
    bounds = [*edges[:-1], max(latent.max_act or 0.0, edges[-2])]  # nothing lies between the largest and its bin's end
    below = np.concatenate([[0], np.cumsum(counts)])
    ends = np.linspace(0, bounds[-1], _NUM_BARS + 1)
    heights = np.diff(np.interp(ends, bounds, below))
    return list(zip(heights.tolist(), ((ends[1:] + ends[:-1]) / 2).tolist(), strict=True))


def activations(latent: Latent, run: str, source: str) -> list[Row]:
    """Lines of the table Activation, less what all lines share; run and source go into their ids."""
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
    """Of each group of examples: bounds, and the share of tokens between them."""
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


def _id(*of: str | int) -> str:
    """25 letters and digits, like a cuid, and the same whenever it is written: importing twice adds nothing."""
    return "c" + hashlib.sha256("/".join(map(str, of)).encode()).hexdigest()[:24]


def _short(value: float) -> float:
    """Four digits; the store's own activations have three."""
    return float(f"{value:.4g}")
