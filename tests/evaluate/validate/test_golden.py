"""H20: on the reference world a plain SAE absorbs and OrtSAE does not, at no cost. Thresholds are the reference's."""

from __future__ import annotations

from statistics import fmean

import pytest

from saepipe.evaluate.validate.config import ValidateConfig
from saepipe.evaluate.validate.trained_stacks import StackJob, Trial, train_single_threaded

CONFIG = ValidateConfig()
SEEDS = (0, 1, 2)
L1 = 1.03  # 0.3 in raw units, on activations scaled by sqrt(40 / 3.4)
ORTSAE = 0.29  # 1 in raw units, where E|x|^2 = 3.4


def trial(seed: int, weight: float) -> Trial:
    raw = {
        "cache": "none",
        "sae": {"name": "relu", "d_sae": CONFIG.d_sae},
        "penalties": [{"name": "l1", "weight": L1}, {"name": "ortsae", "weight": weight}],
        "steps": CONFIG.steps,
        "batch_size": CONFIG.batch_size,
        "optimizer": CONFIG.optimizer.to_dict(),
        "init": CONFIG.init.to_dict(),
        "seed": seed,
        "device": "cpu",
    }
    return Trial("orthogonal", seed, L1, weight, raw)


@pytest.fixture(scope="module")
def means() -> dict[float, dict[str, float]]:
    """Returns metrics, mean over seeds, by weight; all six SAEs are in one stack, the plain ones with weight 0."""
    trials = tuple(trial(seed, weight) for weight in (0.0, ORTSAE) for seed in SEEDS)
    metrics = [outcome.metrics for outcome in train_single_threaded(StackJob(trials), CONFIG)]
    halves = {0.0: metrics[: len(SEEDS)], ORTSAE: metrics[len(SEEDS) :]}
    return {weight: {key: fmean(seed[key] for seed in half) for key in half[0]} for weight, half in halves.items()}


def test_a_plain_sae_absorbs(means: dict[float, dict[str, float]]) -> None:
    assert means[0.0]["absorbed"] >= 0.15
    assert means[0.0]["absorbed_half"] > means[0.0]["absorbed"]


def test_ortsae_prevents_it_at_no_cost(means: dict[float, dict[str, float]]) -> None:
    plain, ortsae = means[0.0], means[ORTSAE]
    assert ortsae["absorbed"] <= 0.03
    assert ortsae["l0"] <= plain["l0"]
    assert ortsae["fvu"] <= plain["fvu"] + 0.01
    assert ortsae["mcc"] >= 0.96
    assert ortsae["mcc"] > plain["mcc"]
