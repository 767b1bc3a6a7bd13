"""Base class of the metrics, and the data they return. Importing a metric's module registers it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from saepipe.data.config.component import Component
from saepipe.data.config.plugin_errors import AnswerError, plugin_errors
from saepipe.data.errors import ConfigError
from saepipe.data.folders.health import Finding
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.figure_specs import FigureSpec
from saepipe.evaluate.stats.intervals import Estimate

if TYPE_CHECKING:  # so that results are read without a model library
    from saepipe.evaluate.model.kept_work import Work
    from saepipe.evaluate.model.testbed import Testbed
    from saepipe.evaluate.sae.subject import Subject

Figure = float | int | Estimate


@dataclass(frozen=True)
class Measurement:
    """Results of one metric for one subject."""

    metrics: dict[str, dict[str, Figure]]
    """Figures by category and key, under SAEBench's names."""
    extra: dict[str, Figure] = field(default_factory=dict)
    """Figures for which SAEBench has no key."""
    details: list[dict[str, Any]] = field(default_factory=list)
    """Entries, one per latent (or per dataset, or per letter)."""
    unstructured: dict[str, Any] = field(default_factory=dict)
    """Content of SAEBench's `eval_result_unstructured`."""
    more: dict[str, Any] = field(default_factory=dict)
    """Plain data of our own other than figures: histograms, pairs, results per letter."""
    findings: list[Finding] = field(default_factory=list)
    """Findings of the health rules about this evaluation."""
    counts: dict[str, int] = field(default_factory=dict)
    """Sample sizes behind the figures: contexts, tokens, documents."""
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    """Values by letter whose plain mean is the figure, by figure key. Given for figures whose measurable letters differ
    between SAEs; two SAEs are compared over the letters that both have."""
    warnings: list[str] = field(default_factory=list)
    """Sentences on what makes the figures uninformative."""
    eval_config: dict[str, Any] = field(default_factory=dict)
    """Settings under SAEBench's names."""


class Metric(Component):
    """Settings of one metric; `name` also names its result file, `RUN/eval/<name>.json`."""

    family: ClassVar[str] = "metric"
    package: ClassVar[str] = "saepipe.evaluate.metrics"
    eval_type_id: ClassVar[str]
    """SAEBench's name for the metric."""
    version: ClassVar[int]
    """Raised whenever the same inputs give other figures; older results are then measured again."""
    shown: ClassVar[Mapping[str, FigureSpec]] = {}
    """Figures that tables and verdicts use, by key (SAEBench's; each key belongs to one metric only)."""
    runs_texts: ClassVar[bool] = True
    """Whether it runs texts of its own through the model, up to the hook."""
    detail_bytes: ClassVar[int] = 0
    """Bytes per latent of a result's details, which are held until all SAEs are measured."""
    uses_baseline: ClassVar[bool] = False
    """True if the metric also measures the change from the baseline."""
    uses_siblings: ClassVar[bool] = False
    """True if the metric compares a run with the other seeds of its variant. `measure` then gets these too."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        lacking = [name for name in ("eval_type_id", "version") if not hasattr(cls, name)]
        if lacking and isinstance(cls.model_fields["name"].default, str):
            raise ConfigError(f"metric {cls.__name__} lacks {' and '.join(lacking)}", hint="set it in its class")

    def refuses(self, testbed: Testbed) -> str | None:
        """Returns why it cannot measure what was trained there, or None if it can."""
        if testbed.reads_two_models and self.runs_texts:
            return "it runs texts through one model, and a crosscoder of two caches reads two"
        return None

    def works(self, testbed: Testbed) -> list[Work]:
        """Returns the model's work that `measure` needs, for a plan. Does not load the model."""
        return []

    def held_bytes(self, d_in: int, d_sae: int, testbed: Testbed) -> int | None:
        """Returns the most bytes that measuring one SAE holds beside its weights and the model; None: unknown."""
        return None

    @abstractmethod
    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        """Returns one measurement per subject, in order. All subjects were trained at the testbed's hook of its cache.

        Work that depends on the model alone is done once for all subjects.
        """

    def measured(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        """Calls `measure`; raises ConfigError if a plugin's fails, or returns something else than it must."""
        with plugin_errors():
            answer = self.measure(subjects, testbed, progress)
            if not (isinstance(answer, list) and all(isinstance(each, Measurement) for each in answer)):
                given = f"a {type(answer).__name__} ({str(answer)[:60]})"
                raise AnswerError(self, "measure", given, "a list of Measurement, one per subject")
            if len(answer) != len(subjects):
                raise AnswerError(self, "measure", f"{len(answer)} measurements", f"{len(subjects)}, one per subject")
            for measurement in answer:
                self._check_figures(measurement)
        return answer

    def _check_figures(self, measurement: Measurement) -> None:
        """Raises AnswerError if a figure is no number."""
        for category, group in {**measurement.metrics, "extra": measurement.extra}.items():
            if not isinstance(group, Mapping):
                raise AnswerError(self, "measure", f"as {category} a {type(group).__name__}", "figures by key, a dict")
            for key, figure in group.items():
                if not isinstance(figure, float | int | Estimate):
                    given = f"as {category}.{key} a {type(figure).__name__} ({str(figure)[:40]})"
                    raise AnswerError(self, "measure", given, "a float, an int or an Estimate")
