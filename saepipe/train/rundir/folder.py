"""A run's folder: begun, refused if it holds another run, and sealed when the run is done.

    RUN/  config.yaml  manifest.jsonl  metrics.jsonl  metrics.seal.json  health.json  checkpoints/<step>/  sae/  log/
          COMMITTED

The manifest lists config.yaml, health.json and sae/. Metrics contain times and checkpoints are temporary, so neither
is part of the fingerprint: `sealed_log` and `checkpoint` seal them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saepipe.data.cache.ancestors import find_length, whole_cache
from saepipe.data.cache.cache import Cache
from saepipe.data.config.base import differences
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.remote.places import publish
from saepipe.train.config import TrainConfig
from saepipe.train.formats import saelens
from saepipe.train.rundir.run_files import CONFIG, HEALTH, SAE
from saepipe.train.rundir.sealed_log import write_seal
from saepipe.train.step.state import Recipe, TrainState
from saepipe.train.variants import Variant


def refuse_other_run(folder: Path, config: TrainConfig, cache: Cache) -> None:
    """Raises ConfigError, with the differences, if `folder` holds a run other than that of `config` on `cache`."""
    if not (folder / CONFIG).is_file():
        return
    first_line = _first_line(folder)
    if "imported" in first_line:
        raise ConfigError(f"{folder} holds an imported SAE", hint="choose another --out")
    if first_line.get("run_id") == config.run_id(cache.fingerprint):
        return  # the same run, even if its config.yaml was damaged, which is about to be written again
    differing = differences(TrainConfig.load(folder / CONFIG).identity(), config.identity())
    hint = "choose another --out or remove this folder"
    earlier = str(first_line.get("cache", cache.fingerprint))
    if earlier != cache.fingerprint:
        differing.append(f"the cache's content: {earlier[:16]} -> {cache.fingerprint[:16]}")
        if shorter := find_length(whole_cache(cache.path), earlier):
            hint += f"; or use the cache as it was before it was extended: --cache {shorter}"
    if differing:
        listed = "\n".join(f"  {line}" for line in differing)
        raise ConfigError(f"{folder} holds a run of another config:\n{listed}", hint=hint)


def _first_line(folder: Path) -> Mapping[str, Any]:
    """Returns the manifest's first line; nothing if it is damaged, since that of an unfinished run is rewritten."""
    try:
        return next(iter(artifact.read_manifest(folder)), {})
    except CorruptDataError:
        return {}


def begin(folder: Path, recipe: Recipe, header: dict[str, Any]) -> None:
    """Writes the config and the manifest's first line, which identify the run before its first step."""
    artifact.write_file(folder / CONFIG, recipe.config.to_yaml().encode())
    artifact.rewrite_manifest(folder, [header])


def header(variant: Variant, recipe: Recipe, cache: Cache, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the first line of a run's manifest.

    `stated` lists the config's keys that do not have their defaults, which are known only to the components' classes.
    `commits` lists all commits that have trained the run. `stacked` is the largest number of runs that made steps
    together with it (1: it was alone, or `exact`); it affects only rounding. `earlier` has both for the steps done.
    """
    commits = [*earlier.get("commits", []), artifact.provenance()["commit"]]
    return {
        "kind": "run",
        "run_id": recipe.config.run_id(cache.fingerprint),
        "cache": cache.fingerprint,
        "hook": recipe.config.site,
        "variant": variant.name,
        "seed": variant.seed,
        "planned_steps": recipe.num_steps,
        "stated": list(recipe.config.stated()),
        "stacked": earlier.get("stacked", 1),
        "commits": list(dict.fromkeys(commits)),
        "provenance": dict(artifact.provenance()),
    }


def earlier_header(folder: Path) -> Mapping[str, Any]:
    """Returns what a checkpoint of an earlier version did not record: what the manifest says of the steps done."""
    return _first_line(folder)


def of_the_steps(first_line: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a manifest's first line that a checkpoint records, because it depends on the steps done."""
    return {key: first_line[key] for key in ("commits", "stacked")}


def label(folder: Path) -> str:
    """Name of a run within its study: `VARIANT/seed-N`."""
    return f"{folder.parent.name}/{folder.name}"


def finish(
    folder: Path, recipe: Recipe, state: TrainState, first_line: dict[str, Any], metadata: dict[str, Any]
) -> None:
    """Saves the SAE for raw activations and seals the run; health.json must exist already."""
    sae, params = recipe.config.sae.inference({name: value.detach() for name, value in state.all_params.items()})
    params = recipe.in_raw_units(params)
    names = saelens.write(folder / SAE, sae, params, metadata)
    first_line = {**first_line, "done_steps": state.step, "metrics_seal": True}
    files = artifact.digest_files(folder, [CONFIG, HEALTH, *(f"{SAE}/{name}" for name in names)])
    artifact.rewrite_manifest(folder, [first_line, {"files": files}])
    write_seal(folder)
    artifact.commit(folder)
    publish(folder)


def sae_metadata(first_line: dict[str, Any], recipe: Recipe, cache: Cache) -> dict[str, Any]:
    """Returns the metadata saved beside the weights: where they apply and where they come from."""
    attributes = cache.attributes
    return {
        "hook_name": recipe.config.site,
        **({"widths": list(recipe.widths)} if recipe.config.hooks else {}),
        **({"hook_name_out": recipe.config.target} if recipe.config.target else {}),
        "model_name": attributes["model"]["id"],
        "dataset_path": attributes["config"].get("dataset", {}).get("source"),
        "context_size": attributes["context_size"],
        "training_architecture": recipe.config.sae.name,
        "prepend_bos": attributes.get("bos") != "none",
        "exclude_special_tokens": True,
        "saepipe": {
            "run_id": first_line["run_id"],
            "cache": cache.fingerprint,
            "variant": first_line["variant"],
            "seed": first_line["seed"],
            "steps": recipe.num_steps,
            "activation_scale": recipe.scale if recipe.scales is None else list(recipe.scales),
            **({"target_scale": recipe.target.scale} if recipe.target else {}),
            "provenance": first_line["provenance"],
            # SAELens knows only whether there is a BOS, not which token it is.
            **({"bos_token": token} if (token := attributes["config"].get("bos_token")) else {}),
        },
    }
