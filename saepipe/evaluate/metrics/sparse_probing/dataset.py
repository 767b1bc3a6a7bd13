"""One data set: its texts, their activations, and what probes of the model itself say; all of it stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.sparse_probing.answers import (
    Answers,
    chosen,
    fixed_answers,
    from_tensors,
    reference_answers,
    renamed,
    to_tensors,
)
from saepipe.evaluate.metrics.sparse_probing.tasks import Task, read, stored, tasks
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.linear_probes import STRENGTHS
from saepipe.evaluate.texts.config import LabelledConfig
from saepipe.evaluate.texts.pooled import TextActivations, activations_work, pooled_latents, text_activations
from saepipe.evaluate.texts.sample import Draw, LabelledTexts
from saepipe.evaluate.texts.stored import labelled_texts, work_of

_VERSION = 1
"""Raised whenever the same texts and settings give other tasks, or the model's probes other answers."""


@dataclass(frozen=True)
class Asked:
    """What is asked of a data set."""

    config: LabelledConfig
    draw: Draw
    context_size: int
    ks: tuple[int, ...]
    full: bool

    @property
    def name(self) -> str:
        return self.config.name

    def works(self) -> list[Work]:
        """Texts, their activations, tasks, and probes of the model."""
        drawn = work_of(self.config, self.draw)
        return [drawn, self._activations(drawn), self._tasks(drawn), self._probes(drawn)]

    def prepare(self, testbed: Testbed, progress: Progress) -> DataSet:
        """All that is the same for every SAE; made at first, read afterwards."""
        drawn = work_of(self.config, self.draw)
        texts = labelled_texts(testbed, self.config, self.draw, drawn)
        activations = text_activations(testbed, texts.texts, self._activations(drawn), self.name, progress)
        asked = read(self._get(testbed, self._tasks(drawn), partial(self._draw_tasks, texts)))
        found = DataSet(self, texts, activations, asked, {}, dict(drawn.key["origin"]))
        llm = self._get(testbed, self._probes(drawn), partial(found.model_probes, progress))
        return replace(found, llm=from_tensors(llm.tensors, llm.info["names"]))

    def _draw_tasks(self, texts: LabelledTexts) -> Content:
        labels = [row.label for row in texts.rows]
        return stored(tasks(labels, texts.num_train, self.draw.seed, mirrored=self.draw.mode == "reference"))

    @staticmethod
    def _get(testbed: Testbed, work: Work, make: Callable[[], Content]) -> Content:
        return testbed.artifacts.get(work.kind, work.key, make)

    def _activations(self, drawn: Work) -> Work:
        return activations_work(drawn, self.context_size)

    def _tasks(self, drawn: Work) -> Work:
        return Work("tasks", {"texts": dict(drawn.key), "version": _VERSION})

    def _probes(self, drawn: Work) -> Work:
        settings = {"ks": list(self.ks), "full": self.full, "strengths": list(STRENGTHS), "version": _VERSION}
        return Work("probes", {"texts": dict(drawn.key), "context_size": self.context_size, **settings})


@dataclass(frozen=True)
class DataSet:
    """A data set ready to be asked of any SAE."""

    asked: Asked
    texts: LabelledTexts
    activations: TextActivations
    tasks: Sequence[Task]
    llm: Answers
    origin: dict[str, Any]

    @property
    def num_steps(self) -> int:
        """Tasks that `answers` tells of."""
        return len(self.tasks) * (1 if self.asked.draw.mode == "fixed" else len(self.asked.ks) + self.asked.full)

    def model_probes(self, progress: Progress) -> Content:
        """What probes of the model's own channels say."""
        progress.start(f"probes of the model on {self.asked.name}", self.num_steps, "tasks")
        try:
            generator = torch.Generator().manual_seed(self.asked.draw.seed)
            answers = self.answers(self.activations.pooled(), generator, progress)
        finally:
            progress.finish()
        tensors, names = to_tensors(answers)
        return Content(tensors, {"names": names})

    def sae_probes(self, subject: Subject, generator: torch.Generator, progress: Progress) -> Answers:
        """What probes of an SAE's latents say. Without a full probe, test texts are encoded to chosen latents only."""
        if self.asked.full or self.asked.draw.mode == "reference":
            return self.answers(pooled_latents(subject, self.activations), generator, progress)
        known, unseen = _split(self.activations, self.texts.num_train)
        x = pooled_latents(subject, known)
        columns = chosen(x, self.tasks, max(self.asked.ks))
        few = torch.cat([x[:, columns], pooled_latents(subject, unseen, columns)])
        return renamed(self.answers(few, generator, progress), columns)

    def answers(self, x: torch.Tensor, generator: torch.Generator, progress: Progress) -> Answers:
        """What probes of the columns of x (num_texts, d) say; only mode reference draws, from `generator`."""
        asked, told = self.asked, partial(progress.advance, 1)
        if asked.draw.mode == "fixed":
            return fixed_answers(x, self.tasks, asked.ks, full=asked.full, told=told)
        labels = [row.label for row in self.texts.rows]
        return reference_answers(x, labels, self.texts.num_train, asked.ks, generator, full=asked.full, told=told)


def _split(activations: TextActivations, num_texts: int) -> tuple[TextActivations, TextActivations]:
    """The first texts, and the others."""
    cut = int(activations.offsets[num_texts])
    x, offsets, num_special = activations.x, activations.offsets, activations.num_special
    return (
        TextActivations(x[:cut], offsets[: num_texts + 1], num_special[:num_texts]),
        TextActivations(x[cut:], offsets[num_texts:] - cut, num_special[num_texts:]),
    )
