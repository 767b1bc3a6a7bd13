"""What can be said of a run: from its cache, where that is at hand, else from what its evaluations and its SAE say."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from saepipe.data.cache.cache import Cache
from saepipe.data.config.base import flatten
from saepipe.data.config.component import Component
from saepipe.data.errors import ConfigError
from saepipe.data.folders import artifact
from saepipe.evaluate.hub.contents import is_local
from saepipe.evaluate.results.run_results import Row, row_of
from saepipe.train.formats import saelens
from saepipe.train.rundir import folder
from saepipe.train.rundir.load import Run
from saepipe.train.sae.base import Architecture


@dataclass(frozen=True)
class Source:
    """A model or a dataset."""

    name: str | None
    """A hub's id, or the last part of a local path; None where nobody says."""
    revision: str | None = None
    on_hub: bool = False
    """Whether `name` is a hub's id: known where a commit of it is."""

    @classmethod
    def of(cls, name: str | None, revision: str | None) -> Source:
        if name is None or not (is_local(name) or name.startswith(".")):
            return cls(name, revision, revision is not None)
        return cls(PurePath(name).name, revision)

    def __str__(self) -> str:
        if self.name is None:
            return "unknown"
        at = f"at `{self.revision}`" if self.revision else "revision unknown"
        return f"`{self.name}`, {at}" if self.name != "toy" else "`toy`, the one embedded in saepipe"


@dataclass(frozen=True)
class Facts:
    """One run as its card tells of it."""

    run: Run
    row: Row
    cfg: Mapping[str, Any]
    """The SAE's cfg.json."""
    header: Mapping[str, Any]
    """The first line of the run's manifest."""
    model: Source
    dataset: Source
    weights: str | None
    """xxh3 of the model's."""
    cached: Mapping[str, Any] | None
    """The attributes of its cache, where that is at hand."""

    @classmethod
    def of(cls, run: Run, cache: Path | None = None) -> Facts:
        """
        Args:
            run: opened, so its digests hold.
            cache: where its cache lies now; where it lay when the run was made, if not given.

        Raises:
            ConfigError: if `cache` is another one than the run was made from.
        """
        row, cached = row_of(run), _attributes(run, cache)
        cfg = json.loads((run.path / folder.SAE / saelens.CONFIG).read_text())
        metadata = cfg.get("metadata", {})
        judged: dict[str, Any] = next((made["model"] for made in row.made.values() if made.get("model")), {})
        model = cached["model"] if cached else {"id": metadata.get("model_name")} | judged
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
        """Trained on, each as often as it was seen; None of an imported run."""
        trained = self.run.trained
        return trained.steps * trained.batch_size if trained and trained.steps else None

    @property
    def architecture(self) -> Component:
        """As it was trained: a BatchTopK lies in sae/ as the JumpReLU that it is afterwards."""
        return Architecture.parse(self.run.settings["sae"])


def explained(component: Component) -> tuple[str, str]:
    """(what it is and its source, its formula) in the words of its own file; empty where there are none."""
    module = inspect.getmodule(type(component))
    return _first(module.__doc__ if module else None), _first(type(component).__doc__)


def settings_of(component: Component) -> str:
    """`weight 0.3, warmup 0.2`."""
    return ", ".join(f"{key} {value}" for key, value in flatten(component.to_dict()) if key != "name")


def _first(text: str | None) -> str:
    """The first paragraph, and the second where the first announces it, on one line."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    count = 2 if paragraphs[0].endswith(":") else 1
    return " ".join(" ".join(paragraphs[:count]).split())


def _attributes(run: Run, cache: Path | None) -> Mapping[str, Any] | None:
    if cache is not None:
        check_cache(run, cache)
    path = cache or run.config.cache
    seal = path / artifact.COMMITTED
    if not seal.is_file() or seal.read_text().strip() != run.cache_fingerprint:
        return None
    return Cache.open(path).attributes


def check_cache(run: Run, cache: Path) -> None:
    """Raises ConfigError unless the run was made from this cache."""
    found = Cache.open(cache).fingerprint
    if found != run.cache_fingerprint:
        message = f"{cache} is cache {found[:16]}; {run.variant}/seed-{run.seed} was made from"
        raise ConfigError(f"{message} {run.cache_fingerprint[:16]}", hint="give the cache that it was trained from")
