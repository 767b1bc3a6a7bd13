"""The order of latents, by its formula latent by latent."""

from __future__ import annotations

import numpy as np
import torch

from saepipe.evaluate.metrics.sae_probes.latent_ranking import ranked_latents


def test_differences_are_in_units_of_the_active_mean() -> None:
    rng = np.random.default_rng(0)
    acts = np.maximum(rng.normal(size=(50, 9)), 0) * 10.0 ** rng.integers(-2, 3, size=9)
    acts[:, 4] = 0
    positive = np.arange(50) < 20
    expected = []
    for column in acts.T:
        active = np.abs(column[column != 0])
        unit = active.mean() if len(active) else 1.0
        expected.append(abs(column[positive].mean() - column[~positive].mean()) / unit)
    got = ranked_latents(torch.from_numpy(acts).float(), torch.from_numpy(positive))
    assert got.tolist() == np.argsort(-np.array(expected), kind="stable").tolist()
    assert got[-1] == 4
