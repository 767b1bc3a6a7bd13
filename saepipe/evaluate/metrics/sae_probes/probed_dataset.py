"""One dataset of sae_probes: its rows, their last tokens' activations, its tasks, and the model's own probes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.sae_probes.binary_tasks import Task, binary_tasks
from saepipe.evaluate.metrics.sae_probes.probe_scores import ProbeScores, ProbeSettings, dense_scores, sparse_scores
from saepipe.evaluate.metrics.sae_probes.scores import Scores, from_content, to_content
from saepipe.evaluate.metrics.sae_probes.splits import Setting, Split, splits
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.reconstruction import rows_at_a_time
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.texts.config import LabelledDatasetConfig
from saepipe.evaluate.texts.last_token import last_token_activations, last_token_work
from saepipe.evaluate.texts.stored import first_rows, first_rows_work

_VERSION = 1
"""Increased when equal rows and settings would give other scores of the model's probes."""


@dataclass(frozen=True)
class DatasetSettings:
    """Settings of the probes on one dataset."""

    config: LabelledDatasetConfig
    setting: Setting
    max_rows: int
    context_size: int
    probes: ProbeSettings

    def works(self) -> list[Work]:
        """Returns the work for rows, their activations, and probes of the model."""
        rows = self.rows_work()
        return [rows, last_token_work(rows, self.context_size), self._probes_work(rows)]

    def rows_work(self) -> Work:
        return first_rows_work(self.config, self.max_rows, distinct=self.probes.mode == "fixed")

    def prepare(self, testbed: Testbed, progress: Progress) -> ProbedDataset:
        """Makes all that is the same for every SAE, or reads it if it is stored."""
        work = self.rows_work()
        rows = first_rows(testbed, self.config, work)
        tasks = binary_tasks(self.config, [row.label for row in rows], self.probes.seed)
        by_task = {task.name: list(splits(task, self.setting, self.probes.seed)) for task in tasks}
        texts = [row.text for row in rows]
        activations_work = last_token_work(work, self.context_size)
        x = last_token_activations(testbed, texts, activations_work, self.config.name, progress)
        dataset = ProbedDataset(self, x, tasks, by_task, {}, dict(work.key["origin"]))
        probes = self._probes_work(work)
        llm = testbed.kept_work.get(probes.kind, probes.key, partial(dataset.model_scores, progress))
        return replace(dataset, llm=from_content(llm))

    def _probes_work(self, rows: Work) -> Work:
        settings = {"setting": self.setting, "context_size": self.context_size, "version": _VERSION}
        of_probes = {name: value for name, value in asdict(self.probes).items() if name in ("seed", "mode")}
        return Work("last_token_probes", {"texts": dict(rows.key), **settings, **of_probes})


@dataclass(frozen=True)
class ProbedDataset:
    """A dataset ready for probes on any SAE."""

    settings: DatasetSettings
    x: Tensor
    """(num_rows, d_in) in the model's dtype"""
    tasks: list[Task]
    splits: dict[str, list[Split]]
    """by task"""
    llm: Scores
    source_version: dict[str, Any]

    @property
    def num_splits(self) -> int:
        """Number of times that `model_scores` and `sae_scores` advance the progress."""
        return sum(map(len, self.splits.values()))

    def model_scores(self, progress: Progress) -> Content:
        """Returns the scores of the probe on all channels of the model."""
        x = self.x.float()
        progress.start(f"probes of the model on {self.settings.config.name}", self.num_splits, "splits")
        try:
            return to_content(self._scores(partial(dense_scores, x, settings=self.settings.probes), progress))
        finally:
            progress.finish()

    def sae_scores(self, subject: Subject, progress: Progress) -> Scores:
        """Returns the scores of probes on an SAE's latents."""
        held = rows_at_a_time(subject.sae.d_sae)
        acts = torch.cat([subject.encode(rows).cpu().float() for rows in torch.split(self.x, held)])
        return self._scores(partial(sparse_scores, acts, settings=self.settings.probes), progress)

    def _scores(self, of_split: Callable[[Task, Split], dict[str, ProbeScores]], progress: Progress) -> Scores:
        scores: Scores = {}
        for task in self.tasks:
            for split in self.splits[task.name]:
                scores.setdefault(task.name, {})[split.name] = of_split(task, split)
                progress.advance(1)
        return scores
