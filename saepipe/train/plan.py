"""Every run of a config before any training: its folder, its steps and the scale of its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from types import MappingProxyType

import torch

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.paired_cache import PairedCache
from saepipe.data.device import pick_device
from saepipe.data.errors import ConfigError
from saepipe.data.folders.disk import require_room
from saepipe.train.config import Shuffle, TrainConfig
from saepipe.train.config_sections import InitConfig
from saepipe.train.parallel.mesh import Mesh
from saepipe.train.rundir.starting_sae import resolve_start
from saepipe.train.sae.crosscoder import joint_scale
from saepipe.train.step.state import Recipe, Target
from saepipe.train.variants import Variant, expand


@dataclass(frozen=True)
class Planned:
    """A run before any training."""

    variant: Variant
    recipe: Recipe
    cache: Cache
    folder: Path

    @property
    def stream(self) -> tuple[str, tuple[str, ...], int, int, Shuffle]:
        """Cache, hooks, batch size, data seed and shuffle; runs in which all agree share one stream of batches."""
        config, path = self.recipe.config, str(self.cache.path)
        path += f" and {config.other_cache}" if config.other_cache else ""
        return path, config.read_hooks, config.batch_size, config.data_seed, config.shuffle

    @property
    def num_params(self) -> int:
        recipe = self.recipe
        d_in, d_out, d_sae = recipe.d_in, recipe.d_out, recipe.config.sae.d_sae
        skip = d_in * d_out if recipe.config.skip else 0
        return (d_in + d_out) * d_sae + d_out + d_sae + skip

    @property
    def num_checkpointed(self) -> int:
        """Number of values that a run holds and a checkpoint keeps: parameters, Adam's moments, a decoder's start.

        Moments are counted for a frozen part too, which has none; only a soft-frozen decoder has its start beside it.
        """
        recipe = self.recipe
        start = recipe.d_out * recipe.config.sae.d_sae if recipe.config.freeze == "soft_decoder" else 0
        return 3 * self.num_params + start

    @property
    def run_id(self) -> str:
        return self.recipe.config.run_id(self.cache.fingerprint)


def plan_runs(
    config: TrainConfig,
    out: Path,
    mesh: Mesh | None = None,
    opened: Mapping[Path, Cache] = MappingProxyType({}),
    device: torch.device | None = None,
) -> list[Planned]:
    """Returns every run of a config, each resolved; raises ConfigError if one cannot be made.

    Args:
        config: with its variants and seeds.
        out: a run goes to `out`/<variant>/seed-<n>/.
        mesh: ranks that each run is split over.
        opened: caches that are open already, by their paths.
        device: of the runs, if this machine need not have it; by default the one that the config asks for.
    """
    device = device or pick_device(config.device)
    variants = expand(config)
    configs = [variant.config for variant in variants]
    caches = {path: opened.get(path) or Cache.open(path) for path in {config.cache for config in configs}}
    others = {config.other_cache: Cache.open(config.other_cache) for config in configs if config.other_cache}
    pairs: dict[tuple[Path, Path], PairedCache] = {}
    starts: dict[str, InitConfig] = {}  # each SAE that runs start from is read once
    planned = []
    for variant in variants:
        cache = caches[variant.config.cache]
        if (path := variant.config.other_cache) is not None:
            both = variant.config.cache, path
            cache = pairs[both] = pairs[both] if both in pairs else PairedCache.of(cache, others[path])
        recipe = (_crosscoder if variant.config.hooks else _single)(variant.config, cache, device)
        resolved = recipe.config
        if resolved.init.source is not None:
            place = resolved.read_hooks, str(cache.path), str(resolved.other_cache)
            key = repr((resolved.init, resolved.seed, resolved.sae, resolved.skip, place))
            starts[key] = starts.get(key) or resolve_start(recipe, cache)
            recipe = replace(recipe, config=resolved.model_copy(update={"init": starts[key]}))
        planned.append(Planned(variant, replace(recipe, mesh=mesh), cache, out / variant.folder))
    return planned


def _single(config: TrainConfig, cache: Cache, device: torch.device) -> Recipe:
    """Returns the recipe of an SAE or a transcoder; raises ConfigError if the cache lacks its hook or its target."""
    hook = resolve_hook(config.hook, cache)
    resolved = config.resolved(hook=hook, num_rows=cache.num_tokens, device=device)
    tail = config.kl_tail.resolved(config.batch_size, cache.attributes["context_size"])
    resolved = resolved.model_copy(update={"kl_tail": tail})
    return Recipe(resolved, cache.widths[hook], _scale(resolved, cache, hook), device, _target(resolved, cache, hook))


def _crosscoder(config: TrainConfig, cache: Cache, device: torch.device) -> Recipe:
    """Returns the recipe of a crosscoder; raises ConfigError if it has one hook, or a cache does not have them."""
    if len(config.read_hooks) == 1:
        hint = "for one hook, set `hook`; with `other_cache`, it is read in the caches of two models"
        raise ConfigError(f"hooks, of a crosscoder, are several: {config.hooks[0]} is one", hint=hint)
    if missing := [hook for hook in config.read_hooks if hook not in cache.hooks]:
        raise ConfigError(
            f"hooks {', '.join(missing)} are not in the cache; {cache.path} has {', '.join(cache.hooks)}",
            hint="harvest all hooks into one cache, and the same ones into an other_cache",
        )
    resolved = config.resolved(hook=None, num_rows=cache.num_tokens, device=device)
    if isinstance(cache, PairedCache):
        if config.other_fingerprint not in (None, cache.other.fingerprint):
            raise ConfigError(
                f"{config.other_cache} is {cache.other.fingerprint[:16]}, not other_fingerprint "
                f"{config.other_fingerprint[:16]}",
                hint="leave out other_fingerprint to read what is there now",
            )
        resolved = resolved.model_copy(update={"other_fingerprint": cache.other.fingerprint})
    widths = tuple(cache.widths[hook] for hook in config.read_hooks)
    scales = tuple(_scale(resolved, cache, hook) for hook in config.read_hooks)
    return Recipe(resolved, sum(widths), joint_scale(scales), device, widths=widths, scales=scales)


def _scale(config: TrainConfig, cache: Cache, hook: str) -> float:
    if config.activation_scale == "none":
        return 1.0
    return (cache.widths[hook] / cache.stats(hook).mean_square_norm) ** 0.5


def _target(config: TrainConfig, cache: Cache, hook: str) -> Target | None:
    """Returns what a transcoder reconstructs; raises ConfigError if the cache does not have it."""
    if config.target is None:
        return None
    if config.target not in cache.hooks:
        raise ConfigError(
            f"target {config.target!r} is not in the cache; {cache.path} has {', '.join(cache.hooks)}",
            hint="set `target` to one of them, or harvest both hooks into one cache",
        )
    if config.target == hook:
        raise ConfigError(
            f"hook and target are both {hook}", hint="drop `target`: what reconstructs its input is an SAE"
        )
    return Target(cache.widths[config.target], _scale(config, cache, config.target))


def check_room(planned: Sequence[Planned], out: Path) -> None:
    """Raises OutOfSpaceError if the disk will not hold what the runs have yet to write: two checkpoints and an SAE.

    A run with checkpoints writes over files of the same size, so only its SAE is counted.
    """
    needed = 0
    for run in planned:
        saves = run.recipe.num_steps > run.recipe.config.checkpoint_every
        resumed = any(run.folder.glob("checkpoints/*"))
        needed += 4 * run.num_params + (0 if resumed or not saves else 2 * 4 * run.num_checkpointed)
    what = f"a study of {len(planned)} runs in {out}"
    require_room(out, needed, what, "train fewer or smaller SAEs at a time")


def by_stream(planned: Sequence[Planned]) -> list[list[Planned]]:
    """Returns the runs in groups that share one stream of batches, each in its order."""
    ordered = sorted(planned, key=lambda run: run.stream)
    return [list(group) for _, group in groupby(ordered, key=lambda run: run.stream)]


def resolve_hook(hook: str | None, cache: Cache) -> str:
    """Returns the hook, or the cache's only one if none is named; raises ConfigError if it is ambiguous or missing."""
    if hook is None and len(cache.hooks) == 1:
        return cache.hooks[0]
    if hook not in cache.hooks:
        problem = "no hook is given" if hook is None else f"hook {hook!r} is not in the cache"
        raise ConfigError(f"{problem}; {cache.path} has {', '.join(cache.hooks)}", hint="set `hook`")
    return hook
