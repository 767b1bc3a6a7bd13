"""Sparse probing: how well a few latents, or all of them, tell the classes of labelled texts apart.

Formulas, datasets and differences from the reference (SAEBench 0.6.0): docs/metrics/sparse_probing.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator

from saepipe.data.config.base import Count
from saepipe.data.config.bounds import Seed
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.figure_specs import SPARSE_PROBING_FIGURES, FigureSpec
from saepipe.evaluate.metrics.base import Measurement, Metric
from saepipe.evaluate.metrics.sparse_probing.answers import Answers
from saepipe.evaluate.metrics.sparse_probing.dataset import ProbingDataset, ProbingSettings
from saepipe.evaluate.metrics.sparse_probing.probe_keys import KS
from saepipe.evaluate.metrics.sparse_probing.result_keys import measurement
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.texts.known_datasets import REFERENCE, TOY, Datasets, is_toy
from saepipe.evaluate.texts.sample import Sampling

_SIZES = {"toy": (400, 200), "reference": (4000, 1000)}
"""Training and test texts per task, half of them of its class."""


_CLASSES, _MOST_CLASSES = 5, 8
"""Classes of the reference's datasets, and of the toy's largest, before any text is drawn."""

_PROBE_ARRAYS = 4
"""Arrays (train_size, d_sae) float64 in which a probe on all latents is fitted."""


class SparseProbing(Metric):
    """Accuracy of probes on latents. Those on the model's channels are shared; an SAE encodes each text once."""

    name: Literal["sparse_probing"] = "sparse_probing"
    datasets: Datasets | None = Field(default=None, min_length=1)
    """Settings, or names of known datasets; null: the toy's four if the model or the cache's text is the toy's, else
    the reference's eight."""
    k_values: tuple[Count, ...] = Field(default=KS, min_length=1)
    """Numbers of latents that a probe reads."""
    full_probe: bool = True
    """Also fit a probe on all latents."""
    train_size: Count | None = Field(default=None, ge=40)
    """Texts per task, half of them of its class; null: 4,000, or 400 for the toy's datasets."""
    test_size: Count | None = Field(default=None, ge=40)
    """null: 1,000, or 200 for the toy's datasets."""
    context_size: int = Field(default=128, ge=2, le=2**20)
    """Positions per text, BOS included."""
    seed: Seed = 42
    """Seed of the sampled texts and negatives."""
    eval_type_id: ClassVar[str] = "sparse_probing"
    version: ClassVar[int] = 1
    shown: ClassVar[Mapping[str, FigureSpec]] = SPARSE_PROBING_FIGURES

    @field_validator("k_values")
    @classmethod
    def _check_ks(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if unknown := set(ks) - set(KS):
            raise ValueError(f"SAEBench has no key for k in {sorted(unknown)}; choose from {', '.join(map(str, KS))}")
        return tuple(sorted(set(ks)))

    @field_validator("datasets")
    @classmethod
    def _check_names(cls, datasets: Datasets | None) -> Datasets | None:
        names = [config.name for config in datasets or ()]
        if len(set(names)) < len(names):
            raise ValueError(f"a dataset is listed twice: {', '.join(names)}")
        return datasets

    def held_bytes(self, d_in: int, d_sae: int, testbed: Testbed) -> int:
        toy = self.datasets is None and is_toy(testbed)
        train, test = _SIZES["toy" if toy else "reference"]
        train, test = self.train_size or train, self.test_size or test
        texts = (train + test) // 2 * (_MOST_CLASSES if toy else _CLASSES)
        captured = texts * self.context_size * d_in * getattr(torch, testbed.dtype).itemsize
        probe = _PROBE_ARRAYS * 8 * train if self.full_probe else 0
        return max(captured, d_sae * (4 * texts + probe))

    def works(self, testbed: Testbed) -> list[Work]:
        return [work for settings in self.dataset_settings(testbed) for work in settings.works()]

    @torch.no_grad()
    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        datasets = [settings.prepare(testbed, progress) for settings in self.dataset_settings(testbed)]
        total = len(subjects) * sum(dataset.num_steps for dataset in datasets)
        progress.start(f"sparse probing at {testbed.hook} (SAEs: {len(subjects)})", total, "tasks")
        try:
            by_subject = [self._answers(subject, datasets, progress) for subject in subjects]
        finally:
            progress.finish()
        eval_config = self._eval_config(testbed, datasets)
        return [
            measurement(datasets, answers, subject.sae.d_sae, eval_config)
            for subject, answers in zip(subjects, by_subject, strict=True)
        ]

    def _answers(self, subject: Subject, datasets: Sequence[ProbingDataset], progress: Progress) -> dict[str, Answers]:
        """Returns answers by dataset. All share one generator, as in the reference, which seeds it once per SAE."""
        generator = torch.Generator().manual_seed(self.seed)
        return {dataset.name: dataset.sae_probes(subject, generator, progress) for dataset in datasets}

    def dataset_settings(self, testbed: Testbed) -> list[ProbingSettings]:
        """Returns the settings per dataset; without `datasets`, the testbed's cache decides which datasets."""
        settings = []
        for config in self.datasets or (TOY if is_toy(testbed) else REFERENCE):
            train, test = _SIZES["toy" if config.source == "toy" else "reference"]
            sampling = Sampling(self.train_size or train, self.test_size or test, self.seed, testbed.mode)
            settings.append(ProbingSettings(config, sampling, self.context_size, self.k_values, self.full_probe))
        return settings

    def _eval_config(self, testbed: Testbed, datasets: Sequence[ProbingDataset]) -> dict[str, Any]:
        first = datasets[0].settings.sampling
        return {
            "model_name": testbed.cache.attributes["model"]["id"],
            "random_seed": self.seed,
            "dataset_names": [dataset.name for dataset in datasets],
            "probe_train_set_size": first.train_size,
            "probe_test_set_size": first.test_size,
            "context_length": self.context_size,
            "llm_batch_size": testbed.batch_size,
            "llm_dtype": testbed.kept_work.model_key.get("dtype"),
            "k_values": list(self.k_values),
            "lower_vram_usage": not self.full_probe,
        }
