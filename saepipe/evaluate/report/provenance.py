"""Where a run comes from: run -> cache -> model and data set, each with what pins it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saepipe.data.folders import artifact
from saepipe.evaluate.report.cached import CacheFacts
from saepipe.train.formats import saelens
from saepipe.train.rundir import folder
from saepipe.train.rundir.importing import ImportConfig
from saepipe.train.rundir.load import Run


@dataclass(frozen=True)
class Link:
    """One thing that a run rests on."""

    kind: str
    """run, source, cache, model, dataset"""
    name: str
    facts: Mapping[str, str]


def chain(run: Run, cache: CacheFacts | str) -> tuple[Link, ...]:
    """From the run down to the data; what only the cache knows is left out where it cannot be read."""
    header = artifact.read_manifest(run.path)[0]
    made = header.get("provenance") or header.get("imported_by") or {}
    facts = {"fingerprint": run.fingerprint, "run id": run.run_id, "hook": run.hook}
    facts |= _steps(header) | _source_code(made, header.get("commits", ()))
    links = [Link("run", f"{run.variant}/seed-{run.seed}", facts)]
    if isinstance(run.config, ImportConfig):
        files = {f"SHA-256 of {name}": digest for name, digest in run.config.files.items()}
        links.append(Link("source", f"{run.config.imported}: {run.config.path}", files))
    return (*links, *(_below(run, cache) if isinstance(cache, str) else _from(cache)))


def _from(cache: CacheFacts) -> tuple[Link, ...]:
    told = cache.attributes
    model, text = told["model"], told.get("dataset", {})
    counts = {"training tokens": f"{cache.num_tokens:,}", **_known(told, "codec", "seed")}
    made = {"fingerprint": cache.fingerprint, **counts, **_source_code(told.get("versions", {}))}
    asked = _known(told["config"].get("dataset", {}), "subset", "split", "seed")
    return (
        Link("cache", str(cache.path), made),
        Link("model", model["id"], _known(model, "revision", "class", "weights", "tokenizer")),
        Link("dataset", str(text.get("source", "not said")), _known(text, "revision") | asked),
    )


def _below(run: Run, why: str) -> tuple[Link, ...]:
    """What the run itself still says of the cache, the model and the data."""
    said = json.loads((run.path / folder.SAE / saelens.CONFIG).read_text())
    metadata = {**said, **said.get("metadata", {})}
    links = [Link("cache", str(run.config.cache), {"fingerprint": run.cache_fingerprint, "now": why})]
    named = {"model": metadata.get("model_name"), "dataset": metadata.get("dataset_path")}
    return (*links, *(Link(kind, str(name), {}) for kind, name in named.items() if name))


def _steps(header: Mapping[str, Any]) -> dict[str, str]:
    done, planned = header.get("done_steps"), header.get("planned_steps")
    return {"steps": f"{done:,} of {planned:,}"} if done is not None and planned is not None else {}


def _source_code(made: Mapping[str, str], commits: Sequence[str] = ()) -> dict[str, str]:
    """The commits that worked on it, and the versions of what its numbers depend on."""
    said = ", ".join(commits) or made.get("commit", "")
    versions = ", ".join(f"{name} {version}" for name, version in made.items() if name != "commit")
    return {key: value for key, value in {"commit": said, "versions": versions}.items() if value}


def _known(told: Mapping[str, Any], *keys: str) -> dict[str, str]:
    return {key: str(told[key]) for key in keys if told.get(key) is not None}
