"""Provenance of a run: run -> cache -> model and dataset, each with its fingerprints, commits and versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saepipe.data.folders import artifact
from saepipe.evaluate.report.cached import CacheFacts
from saepipe.train.rundir.finished_run import Run


@dataclass(frozen=True)
class Link:
    """One element of a run's provenance."""

    kind: str
    """run, source, cache, model, dataset"""
    name: str
    facts: Mapping[str, str]


def chain(run: Run, cache: CacheFacts | str) -> tuple[Link, ...]:
    """Returns the links from the run down to the data; less is known if the cache cannot be read."""
    header = artifact.read_manifest(run.path)[0]
    provenance = header.get("provenance") or header.get("imported_by") or {}
    facts = {"fingerprint": run.fingerprint, "run id": run.run_id, "hook": run.sites}
    facts |= _steps(header) | _source_code(provenance, header.get("commits", ()))
    links = [Link("run", f"{run.variant}/seed-{run.seed}", facts)]
    if imported := run.imported:
        files = {f"SHA-256 of {name}": digest for name, digest in imported.files.items()}
        links.append(Link("source", f"{imported.imported}: {imported.path}", files))
    return (*links, *(_without_cache(run, cache) if isinstance(cache, str) else _from_cache(cache)))


def _from_cache(cache: CacheFacts) -> tuple[Link, ...]:
    attributes = cache.attributes
    model, text = attributes["model"], attributes.get("dataset", {})
    counts = {"training tokens": f"{cache.num_tokens:,}", **_present(attributes, "codec", "seed")}
    facts = {"fingerprint": cache.fingerprint, **counts, **_source_code(attributes.get("versions", {}))}
    selection = _present(attributes["config"].get("dataset", {}), "subset", "split", "seed")
    return (
        Link("cache", str(cache.path), facts),
        Link("model", model["id"], _present(model, "revision", "class", "weights", "tokenizer")),
        Link("dataset", str(text.get("source", "unknown")), _present(text, "revision") | selection),
    )


def _without_cache(run: Run, why: str) -> tuple[Link, ...]:
    """Returns what the run itself knows about the cache, the model and the data."""
    metadata = {**run.sae_cfg, **run.sae_cfg.get("metadata", {})}
    links = [Link("cache", str(run.cache), {"fingerprint": run.cache_fingerprint, "now": why})]
    names = {"model": metadata.get("model_name"), "dataset": metadata.get("dataset_path")}
    return (*links, *(Link(kind, str(name), {}) for kind, name in names.items() if name))


def _steps(header: Mapping[str, Any]) -> dict[str, str]:
    done, planned = header.get("done_steps"), header.get("planned_steps")
    return {"steps": f"{done:,} of {planned:,}"} if done is not None and planned is not None else {}


def _source_code(provenance: Mapping[str, str], commits: Sequence[str] = ()) -> dict[str, str]:
    """Returns the commits that produced it, and the versions of the libraries that its numbers depend on."""
    commit = ", ".join(commits) or provenance.get("commit", "")
    versions = ", ".join(f"{name} {version}" for name, version in provenance.items() if name != "commit")
    return {key: value for key, value in {"commit": commit, "versions": versions}.items() if value}


def _present(attributes: Mapping[str, Any], *keys: str) -> dict[str, str]:
    return {key: str(attributes[key]) for key in keys if attributes.get(key) is not None}
