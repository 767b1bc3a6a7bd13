"""A run's folder: begun, refused if it holds another run, and sealed when the run is done.

    RUN/  config.yaml  manifest.jsonl  metrics.jsonl  health.json  checkpoints/<step>/  sae/  log/  COMMITTED

The manifest lists config.yaml, health.json and sae/. Metrics contain times and checkpoints are temporary, so neither
is part of a digest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saepipe.data.cache.ancestors import find_length, whole_cache
from saepipe.data.cache.cache import Cache
from saepipe.data.config.base import differences
from saepipe.data.config.yaml_file import read_yaml
from saepipe.data.errors import ConfigError
from saepipe.data.folders import artifact
from saepipe.data.folders.health import FILE, Health
from saepipe.train.config import OUTSIDE_THE_ID, TrainConfig
from saepipe.train.formats import saelens
from saepipe.train.health.twins import Twin
from saepipe.train.step.state import Recipe, TrainState
from saepipe.train.variants import Variant

CONFIG, METRICS, HEALTH, CHECKPOINTS, SAE = "config.yaml", "metrics.jsonl", FILE, "checkpoints", "sae"


def refuse_other_run(folder: Path, config: TrainConfig, cache: Cache) -> None:
    """Raises ConfigError, with the differences, if `folder` holds a run other than that of `config` on `cache`."""
    if not (folder / CONFIG).is_file():
        return
    lines = artifact.read_manifest(folder)
    if lines and "imported" in lines[0]:
        raise ConfigError(f"{folder} holds an imported SAE", hint="choose another --out")
    differing = differences(TrainConfig.load(folder / CONFIG).identity(), config.identity())
    hint = "choose another --out or remove this folder"
    if lines and lines[0]["cache"] != cache.fingerprint:
        differing.append(f"the cache's content: {lines[0]['cache'][:16]} -> {cache.fingerprint[:16]}")
        if shorter := find_length(whole_cache(cache.path), lines[0]["cache"]):
            hint += f"; or use the cache as it was before it was extended: --cache {shorter}"
    if differing:
        listed = "\n".join(f"  {line}" for line in differing)
        raise ConfigError(f"{folder} holds a run of another config:\n{listed}", hint=hint)


def begin(folder: Path, recipe: Recipe, header: dict[str, Any]) -> None:
    """Writes the config and the manifest's first line, which identify the run before its first step."""
    artifact.write_file(folder / CONFIG, recipe.config.to_yaml().encode())
    artifact.rewrite_manifest(folder, [header])


def header(folder: Path, variant: Variant, recipe: Recipe, cache: Cache) -> dict[str, Any]:
    """Returns the first line of a run's manifest.

    `commits` lists all commits that have trained the run in `folder`. `stacked` is the largest number of runs that made
    steps together with it (1: it was alone, or `exact`); it affects only rounding.
    """
    earlier = next(iter(artifact.read_manifest(folder)), {})
    commits = [*earlier.get("commits", []), artifact.provenance()["commit"]]
    return {
        "kind": "run",
        "run_id": recipe.config.run_id(cache.fingerprint),
        "cache": cache.fingerprint,
        "hook": recipe.config.hook,
        "variant": variant.name,
        "seed": variant.seed,
        "planned_steps": recipe.num_steps,
        "stacked": earlier.get("stacked", 1),
        "commits": list(dict.fromkeys(commits)),
        "provenance": dict(artifact.provenance()),
    }


def twin(folder: Path) -> Twin:
    """Reads from a run's folder what others are compared with; an unfinished run has no evidence."""
    config = {key: value for key, value in read_yaml(folder / CONFIG)[0].items() if key not in OUTSIDE_THE_ID}
    cache = artifact.read_manifest(folder)[0]["cache"]
    finished = artifact.is_committed(folder)
    name = f"{folder.parent.name}/{folder.name}"
    return Twin(name, {**config, "cache": cache}, Health.read(folder).evidence if finished else {})


def finished_beside(folder: Path) -> Iterator[Twin]:
    """Yields the other finished runs below the same `--out`."""
    for path in sorted(folder.parent.parent.glob(f"*/seed-*/{artifact.COMMITTED}")):
        if path.parent != folder:
            yield twin(path.parent)


def finish(
    folder: Path, recipe: Recipe, state: TrainState, first_line: dict[str, Any], metadata: dict[str, Any]
) -> None:
    """Saves the SAE for raw activations and seals the run; health.json must exist already."""
    sae, params = recipe.config.sae.inference({name: value.detach() for name, value in state.all_params.items()})
    params = sae.unscaled(params, recipe.scale)
    names = saelens.write(folder / SAE, sae, params, metadata)
    first_line = {**first_line, "done_steps": state.step}
    files = artifact.digest_files(folder, [CONFIG, HEALTH, *(f"{SAE}/{name}" for name in names)])
    artifact.rewrite_manifest(folder, [first_line, {"files": files}])
    artifact.commit(folder)


def sae_metadata(first_line: dict[str, Any], recipe: Recipe, cache: Cache) -> dict[str, Any]:
    """Returns the metadata saved beside the weights: where they apply and where they come from."""
    attributes = cache.attributes
    return {
        "hook_name": recipe.config.hook,
        "model_name": attributes["model"]["id"],
        "dataset_path": attributes["config"].get("dataset", {}).get("source"),
        "context_size": attributes["context_size"],
        "training_architecture": recipe.config.sae.name,
        "prepend_bos": True,
        "exclude_special_tokens": True,
        "saepipe": {
            "run_id": first_line["run_id"],
            "cache": cache.fingerprint,
            "variant": first_line["variant"],
            "seed": first_line["seed"],
            "steps": recipe.num_steps,
            "activation_scale": recipe.scale,
            "provenance": first_line["provenance"],
        },
    }
