"""Seeds of one variant: runs whose settings differ in seeds alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from saepipe.data.config.base import flatten
from saepipe.train.rundir.finished_run import Run

_SEEDS = ("seed", "data_seed")


def variant_key(settings: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """Returns the settings of a run but for its seeds: equal for the runs of one variant.

    Runs that start from an SAE may each start from another one, of their own seed; its weights then say nothing of the
    variant, and the variant's name takes their place.

    Args:
        settings: as they are, or flat, by dotted keys.
        variant: name of the run's variant.
    """
    flat = dict(flatten(settings))
    start = {"init.weights": variant} if "init.weights" in flat else {}
    return {key: value for key, value in flat.items() if key not in _SEEDS} | start


def siblings_of_each(runs: Iterable[Run]) -> dict[str, tuple[Run, ...]]:
    """Returns, by a run's fingerprint, the runs of its variant that began from other seeds, one per seed, in order.

    Runs that share a seed share the initialisation, whatever the order of their data, so their latents are no second
    finding of the same features. An imported run of an unknown seed has no siblings. Of several runs of one seed, the
    one whose fingerprint comes first counts.
    """
    families: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda each: each.fingerprint):
        settings = sorted(variant_key(run.settings, run.variant).items())
        families[repr((run.cache_fingerprint, settings))].append(run)
    return {run.fingerprint: _of_other_seeds(run, family) for family in families.values() for run in family}


def _of_other_seeds(run: Run, family: Iterable[Run]) -> tuple[Run, ...]:
    seed = run.settings["seed"]
    of_seed: dict[int, Run] = {}
    for other in family if seed is not None else ():
        theirs = other.settings["seed"]
        if theirs is not None and theirs != seed:
            of_seed.setdefault(theirs, other)
    return tuple(of_seed[theirs] for theirs in sorted(of_seed))
