"""All testbeds of one call, one per hook of a cache, which share a single loaded model."""

from __future__ import annotations

from functools import partial

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.paired_cache import PairedCache
from saepipe.data.device import pick_device
from saepipe.data.remote.run_folders import first_run
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.evaluate.model.config import ModelSettings
from saepipe.evaluate.model.kept_work import KeptWork, beside
from saepipe.evaluate.model.language_model import load_model_of, model_config
from saepipe.evaluate.model.testbed import Passes, Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.harvest.model import LanguageModel
from saepipe.train.rundir.finished_run import open_run


class Testbeds:
    """Builds each testbed on first use. No model is loaded before a metric needs one."""

    __test__ = False  # not a pytest class, despite its name

    def __init__(self, config: ModelSettings, passes: Passes, progress: Progress | None = None) -> None:
        self.config = config
        self.passes = passes
        self.progress = progress or Silent()
        self.device = pick_device(config.device)
        self._testbeds: dict[tuple[str, str, str | None], Testbed] = {}
        self._models: dict[str, LanguageModel] = {}
        self._baseline = open_run(first_run(config.baseline)) if config.baseline else None

    def at(self, cache: Cache, hook: str, target: str | None = None) -> Testbed:
        """Returns the testbed of this hook of this cache, or of transcoders from it to a target."""
        key = (cache.identity, hook, target)
        if key not in self._testbeds:
            self._testbeds[key] = self._build(cache, hook, target)
        return self._testbeds[key]

    def _build(self, cache: Cache, hook: str, target: str | None) -> Testbed:
        model = model_config(cache, self.config)
        model_key = {**cache.attributes["model"], "hook": hook, "dtype": model.dtype, "attention": model.attention}
        return Testbed(
            cache=cache,
            hook=hook,
            target=target,
            load=partial(self._load, cache),
            load_other=partial(self._load, cache.other) if isinstance(cache, PairedCache) else None,
            kept_work=KeptWork(
                self.config.artifacts or beside(cache.path),
                model_key | ({"target": target} if target else {}),
                self.progress,
            ),
            batch_size=self.config.batch_size,
            device=self.device,
            dtype=model.dtype,
            mode=self.config.mode,
            live=self.config.activations == "live",
            baseline=self._baseline_at(cache, hook, target),
            passes=self.passes,
        )

    def _load(self, cache: Cache) -> LanguageModel:
        """Loads the model that made the cache; only one model is held at a time."""
        if cache.fingerprint not in self._models:
            self._models.clear()
            self._models[cache.fingerprint] = load_model_of(cache, self.config, self.progress.say)
        return self._models[cache.fingerprint]

    def _baseline_at(self, cache: Cache, hook: str, target: str | None) -> Subject | None:
        """Returns the baseline if it was trained at this hook of this cache, for this target."""
        run = self._baseline
        if run is None or (run.cache_fingerprint, run.hook, run.target) != (cache.fingerprint, hook, target):
            return None
        return Subject.load(run, self.device)
