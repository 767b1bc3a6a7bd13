"""The family of metrics. A metric is a file beside this one; importing it is all the registration there is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from saepipe.data.config.component import Component
from saepipe.data.folders.health import Finding
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import Estimate

Figure = float | int | Estimate


@dataclass(frozen=True)
class Shown:
    """How tables show a figure, and what may be said of a change in it."""

    label: str
    better: Literal["higher", "lower"] | None = None
    of_model: bool = False
    """The SAE has no part in it, so it must be the same for all runs."""
    noisy: str | None = None
    """Why it tells variants apart badly, with a source."""


@dataclass(frozen=True)
class Measurement:
    """What one metric found for one subject."""

    metrics: dict[str, dict[str, Figure]]
    """By category and key, SAEBench's names."""
    extra: dict[str, Figure] = field(default_factory=dict)
    """What SAEBench has no key for."""
    details: list[dict[str, Any]] = field(default_factory=list)
    """An entry a latent (or a data set, a letter)."""
    unstructured: dict[str, Any] = field(default_factory=dict)
    """What SAEBench keeps under `eval_result_unstructured`."""
    more: dict[str, Any] = field(default_factory=dict)
    """Plain data of ours that is no figure: histograms, pairs, letters one by one."""
    findings: list[Finding] = field(default_factory=list)
    """What the rules of health say of this evaluation."""
    counts: dict[str, int] = field(default_factory=dict)
    """Contexts, tokens, documents: what the figures rest on."""
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    """By figure key, what it is the plain mean of, where what can be measured is not the same for every SAE: the value
    of each letter. Two SAEs are compared over what both have."""
    warnings: list[str] = field(default_factory=list)
    """What keeps the figures from showing anything, in sentences."""
    eval_config: dict[str, Any] = field(default_factory=dict)
    """The settings under SAEBench's names."""


class Metric(Component):
    """Settings of one metric; `name` is also its file's, `RUN/eval/<name>.json`."""

    family: ClassVar[str] = "metric"
    package: ClassVar[str] = "saepipe.evaluate.metrics"
    eval_type_id: ClassVar[str]
    """SAEBench's name for it."""
    version: ClassVar[int]
    """Raised whenever the same inputs give other figures; older results are then measured again."""
    shown: ClassVar[Mapping[str, Shown]] = {}
    """By figure key (SAEBench's, each in one metric only): what tables and verdicts are about."""
    uses_baseline: ClassVar[bool] = False
    """Whether it also measures the change from the baseline."""

    def works(self, testbed: Testbed) -> list[Work]:
        """The model's work that `measure` will need, for a plan. Loads no model."""
        return []

    @abstractmethod
    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        """One measurement a subject, in order. All subjects were trained at the testbed's hook of its cache.

        Work that depends on the model alone is done once for all of them.
        """
