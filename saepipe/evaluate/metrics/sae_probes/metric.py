"""k-sparse probes on the last token of texts, as the package sae-probes 0.4 fits them (arXiv 2502.16681).

Procedure, tasks and differences from the reference (sae-probes 0.4.2): docs/metrics/sae_probes.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator

from saepipe.data.config.base import Count
from saepipe.data.config.bounds import Seed
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.figure_specs import SAE_PROBES_FIGURES, FigureSpec
from saepipe.evaluate.metrics.base import Measurement, Metric
from saepipe.evaluate.metrics.sae_probes.figures_over_tasks import measurement
from saepipe.evaluate.metrics.sae_probes.logistic_probes import Penalty
from saepipe.evaluate.metrics.sae_probes.package_tasks import PACKAGE, is_package_task, package_tasks
from saepipe.evaluate.metrics.sae_probes.probe_scores import ProbeSettings
from saepipe.evaluate.metrics.sae_probes.probed_dataset import DatasetSettings, ProbedDataset
from saepipe.evaluate.metrics.sae_probes.scores import Scores
from saepipe.evaluate.metrics.sae_probes.splits import Setting
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.texts.config import LabelledDatasetConfig
from saepipe.evaluate.texts.known_datasets import KNOWN_DATASETS, is_toy

_TOY = ("toy_gender", "toy_sentiment")


class SaeProbes(Metric):
    """AUC, accuracy and F1 of probes on k latents at each text's last token."""

    name: Literal["sae_probes"] = "sae_probes"
    datasets: tuple[str | LabelledDatasetConfig, ...] | None = Field(default=None, min_length=1)
    """Settings, names of known datasets, `sae-probes/NAME` for one of the package's tasks or `sae-probes` for all 113;
    null: the toy's binary ones if the model or the cache's text is the toy's, else `sae-probes`."""
    setting: Setting = "normal"
    """normal: up to 1,024 training rows, half of them positive; scarcity: 2 to 1,024 of them; imbalance: 5 to 95 % of
    training and test rows are positive."""
    k_values: tuple[Count, ...] | None = Field(default=None, min_length=1)
    """Numbers of latents that a probe reads; null: powers of 2 up to 512, or 16 and 128 outside of setting normal."""
    penalty: Penalty = "l1"
    """Penalty of the probes on latents. The probe on the model's channels always has l2."""
    binarize: bool = False
    """Let probes read whether a latent is active instead of how much."""
    max_rows: Count = Field(default=5000, ge=102)
    """Rows to take from the start of each dataset."""
    context_size: int = Field(default=1024, ge=2, le=2**20)
    """Positions per text, BOS included; a longer text keeps its end."""
    seed: Seed = 42
    """Seed of splits, folds and solver."""
    eval_type_id: ClassVar[str] = "sae_probes"
    version: ClassVar[int] = 1
    shown: ClassVar[Mapping[str, FigureSpec]] = SAE_PROBES_FIGURES

    @field_validator("k_values")
    @classmethod
    def _sort_ks(cls, ks: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if ks is None else tuple(sorted(set(ks)))

    @field_validator("datasets")
    @classmethod
    def _check_datasets(
        cls, datasets: tuple[str | LabelledDatasetConfig, ...] | None
    ) -> tuple[str | LabelledDatasetConfig, ...] | None:
        for config in datasets or ():
            if isinstance(config, str):
                if not is_package_task(config) and config not in KNOWN_DATASETS:
                    known = f"{PACKAGE}, {PACKAGE}/NAME, {', '.join(KNOWN_DATASETS)}"
                    raise ValueError(f"there is no dataset called {config!r}; known by name: {known}")
            elif config.test or config.attribute is not None or config.pairs or config.take == "first":
                raise ValueError(
                    f"{config.name}: sae_probes splits the rows itself, without test, attribute, pairs or take: first"
                )
        return datasets

    @model_validator(mode="after")
    def _check_binarize(self) -> SaeProbes:
        if self.binarize and self.setting != "normal":
            raise ValueError(f"the package binarizes latents in setting normal alone, and this is {self.setting}")
        return self

    def works(self, testbed: Testbed) -> list[Work]:
        return [work for settings in self.dataset_settings(testbed) for work in settings.works()]

    @torch.no_grad()
    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        datasets = [settings.prepare(testbed, progress) for settings in self.dataset_settings(testbed)]
        total = len(subjects) * sum(dataset.num_splits for dataset in datasets)
        progress.start(f"k-sparse probes at {testbed.hook} (SAEs: {len(subjects)})", total, "splits")
        try:
            by_subject = [self._scores(subject, datasets, progress) for subject in subjects]
        finally:
            progress.finish()
        probes, eval_config = self._probe_settings(testbed), self._eval_config(testbed, datasets)
        return [
            measurement(datasets, scores, subject.sae.d_sae, probes, eval_config)
            for subject, scores in zip(subjects, by_subject, strict=True)
        ]

    def _scores(self, subject: Subject, datasets: Sequence[ProbedDataset], progress: Progress) -> Scores:
        return {name: by_split for each in datasets for name, by_split in each.sae_scores(subject, progress).items()}

    def dataset_settings(self, testbed: Testbed) -> list[DatasetSettings]:
        """Returns the settings per dataset; without `datasets`, the testbed's cache decides which datasets.

        Raises:
            ConfigError: if two datasets have one name, or the package's tasks are asked for and not installed.
        """
        listed = self.datasets or (_TOY if is_toy(testbed) else (PACKAGE,))
        configs = [config for dataset in listed for config in _configs(dataset)]
        names = Counter(config.name for config in configs)
        if repeated := [name for name, count in names.items() if count > 1]:
            raise ConfigError(f"a dataset is listed twice: {', '.join(repeated)}", hint="name each once")
        probes = self._probe_settings(testbed)
        return [DatasetSettings(config, self.setting, self.max_rows, self.context_size, probes) for config in configs]

    def _probe_settings(self, testbed: Testbed) -> ProbeSettings:
        ks = self.k_values or ((16, 128) if self.setting != "normal" else tuple(2**n for n in range(10)))
        return ProbeSettings(ks, self.penalty, self.binarize, self.seed, testbed.mode)

    def _eval_config(self, testbed: Testbed, datasets: Sequence[ProbedDataset]) -> dict[str, Any]:
        return {
            "model_name": testbed.cache.attributes["model"]["id"],
            "hook_name": testbed.hook,
            "setting": self.setting,
            "reg_type": self.penalty,
            "binarize": self.binarize,
            "ks": list(self._probe_settings(testbed).ks),
            "seed": self.seed,
            "datasets": [dataset.settings.config.name for dataset in datasets],
        }


def _configs(dataset: str | LabelledDatasetConfig) -> Iterator[LabelledDatasetConfig]:
    """Yields the settings of what a config lists as one dataset; `sae-probes` is 113."""
    if isinstance(dataset, LabelledDatasetConfig):
        yield dataset
    elif is_package_task(dataset):
        yield from package_tasks(dataset)
    else:
        yield KNOWN_DATASETS[dataset].model_copy(update={"test": None, "attribute": None})
