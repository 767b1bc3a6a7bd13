"""Settings and results that SCR and TPP have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from saepipe.data.config.base import Count
from saepipe.data.config.bounds import Seed
from saepipe.evaluate.metrics.base import Measurement, Metric
from saepipe.evaluate.metrics.concepts.outcome import (
    Outcome,
    Score,
    check_chance_level,
    mean_score,
    missing_latents_warnings,
    to_estimate,
    to_number,
)
from saepipe.evaluate.metrics.concepts.perturb import bootstrap_weights
from saepipe.evaluate.metrics.concepts.probe_setup import TRAINING, probes_work
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.stats.intervals import NUM_RESAMPLES
from saepipe.evaluate.texts.config import LabelledDatasetConfig
from saepipe.evaluate.texts.sample import Sampling

Size = Literal[2, 5, 10, 20, 50, 100, 500]
SIZES: tuple[Size, ...] = (2, 5, 10, 20, 50, 100, 500)
"""Numbers of latents that SAEBench's files have keys for."""
_NOT_IN_N_VALUES = "not in n_values"


class Perturbation(Metric):
    """Change in the accuracy of linear probes on pooled activations when latents are ablated at the hook."""

    train_size: Count | None = Field(default=None, ge=40)
    """Texts per question, at most, half of them positive; null: 4,000, fewer for the toy's datasets."""
    test_size: Count | None = Field(default=None, ge=40)
    """null: 1,000, fewer for the toy's datasets."""
    context_size: int = Field(default=128, ge=2)
    """Positions per text, BOS included."""
    n_values: tuple[Size, ...] = Field(default=SIZES, min_length=1)
    """Numbers of latents to ablate."""
    seed: Seed = 42
    """Seed of the texts, the examples, the probes and the bootstrap."""
    toy_sizes: ClassVar[tuple[int, int]]
    """Defaults of train_size and test_size for the toy's datasets."""

    def sampling(self, config: LabelledDatasetConfig, testbed: Testbed) -> Sampling:
        train, test = self.toy_sizes if config.source == "toy" else (4000, 1000)
        return Sampling(self.train_size or train, self.test_size or test, self.seed, testbed.mode)

    def probes_work(self, texts: Work, subset: str, testbed: Testbed) -> Work:
        return probes_work(texts, subset, self.context_size, self.seed, testbed.mode)

    def weights(self, num_texts: int, testbed: Testbed) -> torch.Tensor:
        """Returns (1 + num_resamples, num_texts); no resamples in mode reference, where examples are not paired."""
        return bootstrap_weights(num_texts, NUM_RESAMPLES if testbed.mode == "fixed" else 0, self.seed)

    def measurement(self, outcomes: Sequence[Outcome], testbed: Testbed, keys: Sequence[str]) -> Measurement:
        """Returns the measurement of one SAE, whose values are means over outcomes, intervals included.

        Args:
            outcomes: one per dataset or pair.
            testbed: the model, the hook and the mode.
            keys: all of SAEBench's keys.
        """

        def all_keys(scores: Mapping[str, Score]) -> dict[str, Score]:
            return {key: scores.get(key, _NOT_IN_N_VALUES) for key in keys}

        filled = [all_keys(outcome.scores) for outcome in outcomes]
        return Measurement(
            metrics={f"{self.name}_metrics": {key: to_estimate(mean_score(s[key] for s in filled)) for key in keys}},
            extra={key: to_estimate(mean_score(o.llm_scores[key] for o in outcomes)) for key in outcomes[0].llm_scores},
            details=[
                {"dataset_name": f"{outcome.name}_results", **{key: to_number(score) for key, score in scores.items()}}
                for outcome, scores in zip(outcomes, filled, strict=True)
            ],
            unstructured={outcome.dataset: dict(outcome.by_class) for outcome in outcomes if outcome.by_class},
            more={"datasets": {outcome.name: outcome.summary() for outcome in outcomes}},
            findings=check_chance_level(outcomes),
            counts={"datasets": len(outcomes), "test_examples": sum(outcome.num_test for outcome in outcomes)},
            warnings=missing_latents_warnings(outcomes, self.n_values),
            eval_config=self._eval_config(testbed, outcomes),
        )

    def _eval_config(self, testbed: Testbed, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Returns the settings under SAEBench's names; those of its probe training only in mode reference."""
        probe = {
            "early_stopping_patience": TRAINING.patience,
            "probe_train_batch_size": TRAINING.batch_size,
            "probe_epochs": TRAINING.epochs,
            "probe_lr": TRAINING.lr,
            "probe_l1_penalty": TRAINING.l1,
        }
        return {
            "random_seed": self.seed,
            "dataset_names": list(dict.fromkeys(outcome.dataset for outcome in outcomes)),
            "perform_scr": self.name == "scr",
            "train_set_size": max(outcome.num_train for outcome in outcomes),
            "test_set_size": max(outcome.num_test for outcome in outcomes),
            "context_length": self.context_size,
            **(probe if testbed.mode == "reference" else {}),
            "n_values": list(self.n_values),
            "model_name": testbed.cache.attributes["model"]["id"],
            "llm_batch_size": testbed.batch_size,
            "llm_dtype": testbed.kept_work.model_key.get("dtype"),
        }
