"""All the places where runs of one call are judged: one a hook of a cache, with one loaded model between them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from saepipe.data.cache.cache import Cache
from saepipe.data.device import pick_device
from saepipe.evaluate.model.config import ModelSettings
from saepipe.evaluate.model.kept_work import Artifacts
from saepipe.evaluate.model.language_model import load_model_of, model_config
from saepipe.evaluate.model.testbed import Passes, Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.harvest.model import LanguageModel
from saepipe.train.rundir.load import open_run


class Testbeds:
    """Makes each testbed when it is first asked for. No model is loaded before a metric needs one."""

    __test__ = False  # the name is not pytest's

    def __init__(self, config: ModelSettings, passes: Passes) -> None:
        self.config = config
        self.passes = passes
        self.device = pick_device(config.device)
        self._made: dict[tuple[str, str], Testbed] = {}
        self._models: dict[str, LanguageModel] = {}
        self._baseline = open_run(config.baseline) if config.baseline else None

    def at(self, cache: Cache, hook: str) -> Testbed:
        """The one of this hook of this cache."""
        key = (cache.fingerprint, hook)
        if key not in self._made:
            self._made[key] = self._make(cache, hook)
        return self._made[key]

    def _make(self, cache: Cache, hook: str) -> Testbed:
        model = model_config(cache, self.config)
        of = {**cache.attributes["model"], "hook": hook, "dtype": model.dtype, "attention": model.attention}
        return Testbed(
            cache=cache,
            hook=hook,
            load=partial(self._load, cache),
            artifacts=Artifacts(self.config.artifacts or Path(f"{cache.path}.artifacts"), of),
            batch_size=self.config.batch_size,
            device=self.device,
            dtype=model.dtype,
            mode=self.config.mode,
            live=self.config.activations == "live",
            baseline=self._baseline_at(cache, hook),
            passes=self.passes,
        )

    def _load(self, cache: Cache) -> LanguageModel:
        """One model at a time."""
        if cache.fingerprint not in self._models:
            self._models.clear()
            self._models[cache.fingerprint] = load_model_of(cache, self.config)
        return self._models[cache.fingerprint]

    def _baseline_at(self, cache: Cache, hook: str) -> Subject | None:
        """The run that others are compared with, where it was trained."""
        run = self._baseline
        if run is None or (run.cache_fingerprint, run.hook) != (cache.fingerprint, hook):
            return None
        return Subject.load(run, self.device)
