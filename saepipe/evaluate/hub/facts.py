"""Facts about a run: from its cache if that is available, otherwise from its evaluations and its SAE."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from saepipe.data.cache.ancestors import find_length, open_length
from saepipe.data.cache.cache import Cache
from saepipe.data.config.base import flatten
from saepipe.data.config.component import Component
from saepipe.data.errors import ConfigError
from saepipe.data.folders import artifact
from saepipe.evaluate.hub.contents import is_local
from saepipe.evaluate.results.run_results import Row, read_row
from saepipe.train.rundir.finished_run import Run
from saepipe.train.sae.base import Architecture


@dataclass(frozen=True)
class Source:
    """A model or a dataset."""

    name: str | None
    """Hub id, or the last part of a local path; None if unknown."""
    revision: str | None = None
    on_hub: bool = False
    """True if `name` is a hub id, which is certain only if its commit is known."""

    @classmethod
    def of(cls, name: str | None, revision: str | None) -> Source:
        if name is None or not (is_local(name) or name.startswith(".")):
            return cls(name, revision, revision is not None)
        return cls(PurePath(name).name, revision)

    def __str__(self) -> str:
        if self.name is None:
            return "unknown"
        at = f"at `{self.revision}`" if self.revision else "revision unknown"
        return f"`{self.name}`, {at}" if self.name != "toy" else "`toy`, embedded in saepipe"


@dataclass(frozen=True)
class Facts:
    """Facts about one run, for its card."""

    run: Run
    row: Row
    cfg: Mapping[str, Any]
    """Content of the SAE's cfg.json."""
    header: Mapping[str, Any]
    """First line of the run's manifest."""
    model: Source
    dataset: Source
    weights: str | None
    """xxh3 of the model's weights."""
    cached: Mapping[str, Any] | None
    """Attributes of its cache; None if that is not available."""

    @classmethod
    def of(cls, run: Run, cache: Path | None = None) -> Facts:
        """Collects the facts about a run.

        Args:
            run: the opened run, so its digests are verified.
            cache: present path of its cache; by default the path in its config.

        Raises:
            ConfigError: if the run was not made from `cache`.
        """
        row, cached = read_row(run), _attributes(run, cache)
        cfg = run.sae_cfg
        metadata = cfg.get("metadata", {})
        models = (protocol["model"] for protocol in row.protocols.values())
        evaluated: dict[str, Any] = next((model for model in models if model), {})
        model = cached["model"] if cached else {"id": metadata.get("model_name")} | evaluated
        dataset = cached.get("dataset", {}) if cached else {"source": metadata.get("dataset_path")}
        return cls(
            run=run,
            row=row,
            cfg=cfg,
            header=artifact.read_manifest(run.path)[0],
            model=Source.of(model.get("id"), model.get("revision")),
            dataset=Source.of(dataset.get("source"), dataset.get("revision")),
            weights=model.get("weights"),
            cached=cached,
        )

    @property
    def label(self) -> str:
        return self.row.label

    @property
    def num_tokens(self) -> int | None:
        """Number of training tokens, counting repetitions; None for an imported run."""
        trained = self.run.trained
        return trained.steps * trained.batch_size if trained and trained.steps else None

    @property
    def architecture(self) -> Component:
        """Architecture in training: a BatchTopK is saved in sae/ as the JumpReLU that it becomes."""
        return Architecture.parse(self.run.settings["sae"])


def description_and_formula(component: Component) -> tuple[str, str]:
    """Returns a component's description with source, and its formula, from its file; empty if there are none."""
    module = inspect.getmodule(type(component))
    return _first(module.__doc__ if module else None), _first(type(component).__doc__)


def settings_of(component: Component) -> str:
    """Returns the settings as text, such as `weight 0.3, warmup 0.2`."""
    return ", ".join(f"{key} {value}" for key, value in flatten(component.to_dict()) if key != "name")


def _first(text: str | None) -> str:
    """Returns the first paragraph on one line, with the second if the first ends with a colon."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    count = 2 if paragraphs[0].endswith(":") else 1
    return " ".join(" ".join(paragraphs[:count]).split())


def _attributes(run: Run, cache: Path | None) -> Mapping[str, Any] | None:
    if cache is not None:
        check_cache(run, cache)
    path = find_length(cache or run.cache, run.cache_fingerprint)
    return Cache.open(path).attributes if path else None


def check_cache(run: Run, cache: Path) -> None:
    """Raises ConfigError unless the run was made from this cache."""
    fingerprint = open_length(cache, run.cache_fingerprint).fingerprint
    if fingerprint != run.cache_fingerprint:
        message = f"{cache} is cache {fingerprint[:16]}; {run.variant}/seed-{run.seed} was made from"
        raise ConfigError(f"{message} {run.cache_fingerprint[:16]}", hint="give the cache that the run was made from")
