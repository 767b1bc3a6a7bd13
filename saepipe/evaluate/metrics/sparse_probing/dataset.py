"""One dataset to probe: its texts, their activations, and the answers of probes on the model itself; all stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.sparse_probing.answers import (
    Answers,
    fixed_answers,
    from_tensors,
    reference_answers,
    renumber_columns,
    to_tensors,
    used_columns,
)
from saepipe.evaluate.metrics.sparse_probing.tasks import Task, from_content, sample_tasks, to_content
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.linear_probes import STRENGTHS
from saepipe.evaluate.texts.config import LabelledDatasetConfig
from saepipe.evaluate.texts.pooled import TextActivations, activations_work, pooled_latents, text_activations
from saepipe.evaluate.texts.sample import LabelledTexts, Sampling
from saepipe.evaluate.texts.stored import labelled_texts, texts_work

_VERSION = 1
"""Increased when equal texts and settings would give other tasks or other answers of the model's probes."""


@dataclass(frozen=True)
class ProbingSettings:
    """Settings of the probes on one dataset."""

    config: LabelledDatasetConfig
    sampling: Sampling
    context_size: int
    ks: tuple[int, ...]
    full: bool

    def works(self) -> list[Work]:
        """Returns the work for texts, their activations, tasks, and probes of the model."""
        texts = texts_work(self.config, self.sampling)
        return [texts, self._activations_work(texts), self._tasks_work(texts), self._probes_work(texts)]

    def prepare(self, testbed: Testbed, progress: Progress) -> ProbingDataset:
        """Makes all that is the same for every SAE, or reads it if it is stored."""
        work = texts_work(self.config, self.sampling)
        texts = labelled_texts(testbed, self.config, self.sampling, work)
        activations = text_activations(testbed, texts.texts, self._activations_work(work), self.config.name, progress)
        tasks = from_content(self._get(testbed, self._tasks_work(work), partial(self._sample_tasks, texts)))
        dataset = ProbingDataset(self, texts, activations, tasks, {}, dict(work.key["origin"]))
        llm = self._get(testbed, self._probes_work(work), partial(dataset.model_probes, progress))
        return replace(dataset, llm=from_tensors(llm.tensors, llm.info["names"]))

    def _sample_tasks(self, texts: LabelledTexts) -> Content:
        labels = [row.label for row in texts.rows]
        seed, mirrored = self.sampling.seed, self.sampling.mode == "reference"
        return to_content(sample_tasks(labels, texts.num_train, seed, mirrored=mirrored))

    @staticmethod
    def _get(testbed: Testbed, work: Work, make: Callable[[], Content]) -> Content:
        return testbed.kept_work.get(work.kind, work.key, make)

    def _activations_work(self, texts: Work) -> Work:
        return activations_work(texts, self.context_size)

    def _tasks_work(self, texts: Work) -> Work:
        return Work("tasks", {"texts": dict(texts.key), "version": _VERSION})

    def _probes_work(self, texts: Work) -> Work:
        settings = {"ks": list(self.ks), "full": self.full, "strengths": list(STRENGTHS), "version": _VERSION}
        return Work("probes", {"texts": dict(texts.key), "context_size": self.context_size, **settings})


@dataclass(frozen=True)
class ProbingDataset:
    """A dataset ready for probes on any SAE."""

    settings: ProbingSettings
    texts: LabelledTexts
    activations: TextActivations
    tasks: Sequence[Task]
    llm: Answers
    source_version: dict[str, Any]

    @property
    def name(self) -> str:
        return self.settings.config.name

    @property
    def num_steps(self) -> int:
        """Number of times that `answers` advances the progress."""
        per_task = 1 if self.settings.sampling.mode == "fixed" else len(self.settings.ks) + self.settings.full
        return len(self.tasks) * per_task

    def model_probes(self, progress: Progress) -> Content:
        """Returns the answers of probes on the model's own channels."""
        progress.start(f"probes of the model on {self.name}", self.num_steps, "tasks")
        try:
            generator = torch.Generator().manual_seed(self.settings.sampling.seed)
            answers = self.answers(self.activations.pooled(), generator, progress)
        finally:
            progress.finish()
        tensors, names = to_tensors(answers)
        return Content(tensors, {"names": names})

    def sae_probes(self, subject: Subject, generator: torch.Generator, progress: Progress) -> Answers:
        """Returns answers of probes on latents; without a full probe, only used latents of test texts are encoded."""
        if self.settings.full or self.settings.sampling.mode == "reference":
            return self.answers(pooled_latents(subject, self.activations), generator, progress)
        num_train, activations = self.texts.num_train, self.activations
        train, test = activations.texts(0, num_train), activations.texts(num_train, activations.num_texts)
        x = pooled_latents(subject, train)
        columns = used_columns(x, self.tasks, max(self.settings.ks))
        used = torch.cat([x[:, columns], pooled_latents(subject, test, columns)])
        return renumber_columns(self.answers(used, generator, progress), columns)

    def answers(self, x: torch.Tensor, generator: torch.Generator, progress: Progress) -> Answers:
        """Returns answers of probes on the columns of x (num_texts, d); only mode reference uses `generator`."""
        ks, full, on_step = self.settings.ks, self.settings.full, partial(progress.advance, 1)
        if self.settings.sampling.mode == "fixed":
            return fixed_answers(x, self.tasks, ks, full=full, on_step=on_step)
        labels = [row.label for row in self.texts.rows]
        return reference_answers(x, labels, self.texts.num_train, ks, generator, full=full, on_step=on_step)
