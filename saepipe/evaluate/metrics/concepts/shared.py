"""What SCR and TPP have in common as metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from saepipe.data.config.base import Count
from saepipe.evaluate.metrics.base import Measurement, Metric
from saepipe.evaluate.metrics.concepts.outcome import (
    Outcome,
    Value,
    chance_level,
    figure,
    mean_of,
    number,
    told_of_fewer,
)
from saepipe.evaluate.metrics.concepts.perturb import resamples
from saepipe.evaluate.metrics.concepts.probe_setup import TRAINING, concepts_work
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.stats.intervals import DRAWS
from saepipe.evaluate.texts.config import LabelledConfig
from saepipe.evaluate.texts.sample import Draw

Size = Literal[2, 5, 10, 20, 50, 100, 500]
SIZES: tuple[Size, ...] = (2, 5, 10, 20, 50, 100, 500)
"""Numbers of latents that SAEBench's files have keys for."""
NOISY = "it is noisy for comparing variants (arXiv 2605.18229)"
_NOT_ASKED = "n_values leaves it out"


class Perturbation(Metric):
    """Latents are switched off at the hook, and linear probes on pooled activations are asked again."""

    train_size: Count | None = Field(default=None, ge=40)
    """Texts of a question, at most, half of them positive; null: 4,000, and fewer of the toy's."""
    test_size: Count | None = Field(default=None, ge=40)
    """null: 1,000, and fewer of the toy's."""
    context_size: int = Field(default=128, ge=2)
    """Positions of a text, BOS among them."""
    n_values: tuple[Size, ...] = Field(default=SIZES, min_length=1)
    """Numbers of latents that are switched off."""
    seed: int = Field(default=42, ge=0)
    """Of the texts, the examples, the probes and the bootstrap."""
    toy_sizes: ClassVar[tuple[int, int]]
    """Of the toy's texts, to train and to test on."""

    def draw_of(self, config: LabelledConfig, testbed: Testbed) -> Draw:
        train, test = self.toy_sizes if config.source == "toy" else (4000, 1000)
        return Draw(self.train_size or train, self.test_size or test, self.seed, testbed.mode)

    def concepts_work(self, texts: Work, which: str, testbed: Testbed) -> Work:
        return concepts_work(texts, which, self.context_size, self.seed, testbed.mode)

    def weights(self, num_texts: int, testbed: Testbed) -> torch.Tensor:
        """(1 + draws, num_texts). Mode reference has no draws, since ablated and clean examples are not paired."""
        return resamples(num_texts, DRAWS if testbed.mode == "fixed" else 0, self.seed)

    def measurement(self, outcomes: Sequence[Outcome], testbed: Testbed, keys: Sequence[str]) -> Measurement:
        """Of one SAE: figures are means over outcomes, interval included.

        Args:
            outcomes: one a data set or pair.
            testbed: where they are from.
            keys: SAEBench's, all of them.
        """

        def filled(values: Mapping[str, Value]) -> dict[str, Value]:
            return {key: values.get(key, _NOT_ASKED) for key in keys}

        all_values = [filled(outcome.values) for outcome in outcomes]
        return Measurement(
            metrics={f"{self.name}_metrics": {key: figure(mean_of(each[key] for each in all_values)) for key in keys}},
            extra={key: figure(mean_of(each.of_model[key] for each in outcomes)) for key in outcomes[0].of_model},
            details=[
                {"dataset_name": f"{outcome.name}_results", **{key: number(value) for key, value in values.items()}}
                for outcome, values in zip(outcomes, all_values, strict=True)
            ],
            unstructured={outcome.dataset: dict(outcome.by_class) for outcome in outcomes if outcome.by_class},
            more={"datasets": {outcome.name: outcome.about() for outcome in outcomes}},
            findings=chance_level(outcomes),
            counts={"datasets": len(outcomes), "test_examples": sum(outcome.num_test for outcome in outcomes)},
            warnings=told_of_fewer(outcomes, self.n_values),
            eval_config=self._eval_config(testbed, outcomes),
        )

    def _eval_config(self, testbed: Testbed, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """The settings under SAEBench's names. Those of its probes are given where they are what was trained."""
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
            "llm_dtype": testbed.artifacts.of.get("dtype"),
        }
