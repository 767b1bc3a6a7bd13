"""Sparse probing: how well a few latents, or all of them, tell the classes of labelled texts apart.

Formulas, data sets and where the reference (SAEBench 0.6.0) differs: docs/metrics/sparse_probing.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator

from saepipe.data.config.base import Count
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.base import Measurement, Metric, Shown
from saepipe.evaluate.metrics.sparse_probing.answers import Answers
from saepipe.evaluate.metrics.sparse_probing.dataset import Asked, DataSet
from saepipe.evaluate.metrics.sparse_probing.result_keys import KS, measurement
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.texts.config import LabelledConfig
from saepipe.evaluate.texts.known_datasets import REFERENCE, TOY, DataSets, is_toy
from saepipe.evaluate.texts.sample import Draw

_SIZES = {"toy": (400, 200), "reference": (4000, 1000)}
"""Texts of a task to train and to test on, half of them of its class."""


class SparseProbing(Metric):
    """The model's activations and the probes of its own channels are shared; an SAE encodes each text once."""

    name: Literal["sparse_probing"] = "sparse_probing"
    datasets: DataSets | None = Field(default=None, min_length=1)
    """Settings, or names of known ones; null: the toy's where the model or the cache's text is the toy, else the
    reference's eight."""
    k_values: tuple[Count, ...] = Field(default=KS, min_length=1)
    """Numbers of latents that a probe is given."""
    full_probe: bool = True
    """Whether a probe is given all of them too."""
    train_size: Count | None = Field(default=None, ge=40)
    """Texts of a task, half of them of its class; null: 4,000, and 400 of the toy's."""
    test_size: Count | None = Field(default=None, ge=40)
    """null: 1,000, and 200 of the toy's."""
    context_size: int = Field(default=128, ge=2)
    """Positions of a text, BOS among them."""
    seed: int = Field(default=42, ge=0)
    """Of the texts that are drawn, and of the negatives."""
    eval_type_id: ClassVar[str] = "sparse_probing"
    version: ClassVar[int] = 1
    shown: ClassVar[Mapping[str, Shown]] = {
        "sae_top_1_test_accuracy": Shown("probe of 1 latent", "higher"),
        "sae_top_5_test_accuracy": Shown("probe of 5 latents", "higher"),
        "sae_test_accuracy": Shown("probe of all latents", "higher"),
        "llm_top_1_test_accuracy": Shown("probe of 1 channel", of_model=True),
        "llm_test_accuracy": Shown("probe of the model", of_model=True),
    }

    @field_validator("k_values")
    @classmethod
    def _check_ks(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if unknown := set(ks) - set(KS):
            raise ValueError(f"SAEBench has no key for k in {sorted(unknown)}; choose of {', '.join(map(str, KS))}")
        return tuple(sorted(set(ks)))

    @field_validator("datasets")
    @classmethod
    def _check_names(cls, datasets: tuple[LabelledConfig, ...] | None) -> tuple[LabelledConfig, ...] | None:
        names = [one.name for one in datasets or ()]
        if len(set(names)) < len(names):
            raise ValueError(f"a data set stands twice: {', '.join(names)}")
        return datasets

    def works(self, testbed: Testbed) -> list[Work]:
        return [work for asked in self.asked(testbed) for work in asked.works()]

    @torch.no_grad()
    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        datasets = [asked.prepare(testbed, progress) for asked in self.asked(testbed)]
        total = len(subjects) * sum(dataset.num_steps for dataset in datasets)
        progress.start(f"sparse probing at {testbed.hook} (SAEs: {len(subjects)})", total, "tasks")
        try:
            found = [self._answers(subject, datasets, progress) for subject in subjects]
        finally:
            progress.finish()
        eval_config = self._eval_config(testbed, datasets)
        return [
            measurement(datasets, answers, subject.sae.d_sae, eval_config)
            for subject, answers in zip(subjects, found, strict=True)
        ]

    def _answers(self, subject: Subject, datasets: Sequence[DataSet], progress: Progress) -> dict[str, Answers]:
        """By data set. The generator is one for all of them, as in the reference, which seeds it once an SAE."""
        generator = torch.Generator().manual_seed(self.seed)
        return {dataset.asked.name: dataset.sae_probes(subject, generator, progress) for dataset in datasets}

    def asked(self, testbed: Testbed) -> list[Asked]:
        """What this asks of each data set, where the cache of the testbed decides which."""
        asked = []
        for config in self.datasets or (TOY if is_toy(testbed) else REFERENCE):
            train, test = _SIZES["toy" if config.source == "toy" else "reference"]
            draw = Draw(self.train_size or train, self.test_size or test, self.seed, testbed.mode)
            asked.append(Asked(config, draw, self.context_size, self.k_values, self.full_probe))
        return asked

    def _eval_config(self, testbed: Testbed, datasets: Sequence[DataSet]) -> dict[str, Any]:
        first = datasets[0].asked.draw
        return {
            "model_name": testbed.cache.attributes["model"]["id"],
            "random_seed": self.seed,
            "dataset_names": [dataset.asked.name for dataset in datasets],
            "probe_train_set_size": first.train_size,
            "probe_test_set_size": first.test_size,
            "context_length": self.context_size,
            "llm_batch_size": testbed.batch_size,
            "llm_dtype": testbed.artifacts.of.get("dtype"),
            "k_values": list(self.k_values),
            "lower_vram_usage": not self.full_probe,
        }
