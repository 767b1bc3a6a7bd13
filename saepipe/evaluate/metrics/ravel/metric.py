"""RAVEL: an attribute's latents are given another entity's values; does its answer change, and do the others stay?

Procedure, formulas and differences from the reference (SAEBench 0.6.0): docs/metrics/ravel.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from saepipe.data.config.base import Count
from saepipe.data.config.bounds import Seed
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.figure_specs import RAVEL_FIGURES, FigureSpec
from saepipe.evaluate.metrics.base import Measurement, Metric
from saepipe.evaluate.metrics.ravel.capture_pairs import load_pair_inputs, pair_inputs_work
from saepipe.evaluate.metrics.ravel.class_trial import ClassTrial
from saepipe.evaluate.metrics.ravel.entities import CITY, EntityClassConfig
from saepipe.evaluate.metrics.ravel.known_prompts import find_known_prompts, known_prompts_work
from saepipe.evaluate.metrics.ravel.latent_mask import MaskTraining
from saepipe.evaluate.metrics.ravel.ravel_figures import (
    Outcomes,
    attribute_rows,
    check_model,
    counts,
    model_figures,
    num_latents,
    saebench_rows,
    scores_of,
    unmeasured_warnings,
)
from saepipe.evaluate.metrics.ravel.swap_pairs import PairSampling
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject


class Ravel(Metric):
    """Cause and isolation of each attribute's latents. Prompts, pairs and activations are shared by all SAEs."""

    name: Literal["ravel"] = "ravel"
    entity_classes: tuple[EntityClassConfig, ...] = Field(default=(CITY,), min_length=1)
    """Classes of entities; the default is the cities of RAVEL."""
    max_entities: Count = Field(default=500, ge=4)
    """Entities per class: those of which the model answers the most prompts correctly."""
    min_entities: Count = Field(default=10, ge=2)
    """An attribute is measured only if the model knows it of this many train and this many test entities."""
    min_accuracy: float = Field(default=0.1, ge=0, le=1)
    """An attribute is measured only if the model answers this share of its prompts correctly."""
    min_whole_swap: float = Field(default=0.5, ge=0, le=1)
    """H10 is reported if swapping the whole activation changes fewer of the answers than this share."""
    num_pairs: Count = Field(default=5000, ge=10)
    """Pairs per attribute that test cause, at most, and as many that test isolation; train and test together."""
    test_share: float = Field(default=0.3, gt=0, lt=1)
    """Share of the entities, and of the pairs, to test on."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Adam's learning rate for the logits of the mask."""
    num_epochs: Count = Field(default=2, ge=1)
    seed: Seed = 42
    """Seed of the split, the pairs and the order of training, which are the same for all SAEs."""
    eval_type_id: ClassVar[str] = "ravel"
    version: ClassVar[int] = 1
    shown: ClassVar[Mapping[str, FigureSpec]] = RAVEL_FIGURES

    @field_validator("entity_classes")
    @classmethod
    def _check_names(cls, classes: tuple[EntityClassConfig, ...]) -> tuple[EntityClassConfig, ...]:
        if len({config.name for config in classes}) < len(classes):
            raise ValueError("two classes of entities have the same name")
        return classes

    def refuses(self, testbed: Testbed) -> str | None:
        if testbed.target is not None:
            return "what a transcoder writes is only one layer's share of what the model knows of an entity"
        if testbed.is_of_crosscoders:
            return "an intervention writes at one hook, and a crosscoder has several"
        if testbed.mode == "reference":
            return "it has no mode reference: SAEBench's differs in its texts, its split and its intervention"
        return super().refuses(testbed)

    def works(self, testbed: Testbed) -> list[Work]:
        prompts = [known_prompts_work(config) for config in self.entity_classes]
        return [*prompts, *(pair_inputs_work(work, self._sampling) for work in prompts)]

    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        trials = [self._trial(index, testbed, progress) for index in range(len(self.entity_classes))]
        training = MaskTraining(self.learning_rate, self.num_epochs, testbed.batch_size, self.seed)
        num_passes = sum(self._num_passes(trial) for trial in trials) * len(subjects)
        progress.start(f"ravel at {testbed.hook} (SAEs: {len(subjects)})", num_passes, "pairs")
        try:
            with testbed.upper_layers() as upper_layers:
                by_subject = [
                    [trial.run(subject, upper_layers, training, progress.advance) for trial in trials]
                    for subject in subjects
                ]
        finally:
            progress.finish()
        return [self._measurement(trials, outcomes, testbed) for outcomes in by_subject]

    @property
    def _sampling(self) -> PairSampling:
        return PairSampling(
            max_entities=self.max_entities,
            min_entities=self.min_entities,
            min_accuracy=self.min_accuracy,
            test_share=self.test_share,
            num_pairs=self.num_pairs,
            seed=self.seed,
        )

    def _trial(self, index: int, testbed: Testbed, progress: Progress) -> ClassTrial:
        """Prepares all that does not depend on an SAE, or reads it if it is stored."""
        config = self.entity_classes[index]
        work = known_prompts_work(config)
        known = find_known_prompts(testbed, config, work, progress)
        pairs = pair_inputs_work(work, self._sampling)
        inputs = load_pair_inputs(testbed, known, len(config.attributes), self._sampling, pairs, progress)
        return ClassTrial(config, known, inputs, (self.seed, index))

    def _num_passes(self, trial: ClassTrial) -> int:
        return trial.num_pairs(test=False) * self.num_epochs + trial.num_pairs(test=True)

    def _measurement(self, trials: Sequence[ClassTrial], outcomes: Outcomes, testbed: Testbed) -> Measurement:
        return Measurement(
            metrics={"ravel": dict(scores_of(outcomes))},
            extra={"ravel_num_latents": num_latents(outcomes), **model_figures(trials)},
            unstructured={
                f"{trial.config.name}_results": saebench_rows(trial, of_class)
                for trial, of_class in zip(trials, outcomes, strict=True)
            },
            more={"attributes": attribute_rows(trials, outcomes)},
            findings=check_model(trials, self.min_whole_swap, self.name),
            counts=counts(trials),
            warnings=list(unmeasured_warnings(trials)),
            eval_config=self._eval_config(testbed),
        )

    def _eval_config(self, testbed: Testbed) -> dict[str, Any]:
        model = testbed.language_model.config
        return {
            "random_seed": self.seed,
            "entity_attribute_selection": {config.name: list(config.attributes) for config in self.entity_classes},
            "top_n_entities": self.max_entities,
            "num_pairs_per_attribute": self.num_pairs,
            "train_test_split": 1 - self.test_share,
            "learning_rate": self.learning_rate,
            "num_epochs": self.num_epochs,
            "train_mdas": False,
            "model_name": model.model,
            "llm_batch_size": testbed.batch_size,
            "llm_dtype": model.dtype,
        }
