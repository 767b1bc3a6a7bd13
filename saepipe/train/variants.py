"""Expansion of a config with `variants` and `seeds` into single runs, each named by how it differs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import yaml

from saepipe.data.config.base import fingerprint
from saepipe.data.config.slug import slug
from saepipe.data.config.yaml_file import apply_override
from saepipe.data.errors import ConfigError
from saepipe.train.config import TrainConfig
from saepipe.train.config_sections import VariantsConfig

ALONE = "base"
"""Name of the variant of a config without variants."""

MOST_VARIANTS = 10_000

SHARED_BY_ALL = ("variants", "seeds", "seed", "device", "resident", "plugins", "parallel", "stream", "cost")


@dataclass(frozen=True)
class Variant:
    """One run of a config: `config` has neither variants nor seeds."""

    name: str
    seed: int
    config: TrainConfig

    @property
    def folder(self) -> str:
        return f"{self.name}/seed-{self.seed}"


def expand(config: TrainConfig) -> list[Variant]:
    """Returns all runs in the order written; seeds vary fastest.

    Raises:
        ConfigError: if an override is invalid, a name cannot be a folder's, or two runs are equal or have one name.
    """
    alone = config.model_copy(update={"variants": VariantsConfig(), "seeds": ()}).to_dict() | {"variants": {}}
    runs = [
        Variant(name, seed, _run_config(alone, name, overrides, seed))
        for name, overrides in named_overrides(config)
        for seed in config.seeds or (config.seed,)
    ]
    folders = [run.folder for run in runs]
    _refuse_duplicates(folders, folders, "have the same name")
    _refuse_duplicates(folders, [run.config.run_id(str(run.config.cache)) for run in runs], "are the same run")
    return runs


def named_overrides(config: TrainConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name and the overrides by dotted key of each variant."""
    form = config.variants
    size = math.prod(map(len, form.grid.values())) if form.grid else len(form.overrides)
    if size > MOST_VARIANTS:
        raise ConfigError(f"{size:,} variants, more than {MOST_VARIANTS:,}", hint="split the study")
    if form.grid:
        combined = [dict(zip(form.grid, values, strict=True)) for values in itertools.product(*form.grid.values())]
    elif form.zip:
        combined = [dict(zip(form.zip, values, strict=True)) for values in zip(*form.zip.values(), strict=True)]
    else:
        combined = [dict(overrides) for overrides in form.overrides] or [{"name": ALONE}]
    for overrides in combined:
        name = str(overrides.pop("name", None) or describe(overrides))
        yield slug(name), overrides


def describe(overrides: Mapping[str, Any]) -> str:
    """Returns a name such as `weight=0.01,k=32`: each key's last part (the whole key if ambiguous) and its value."""
    parts = []
    for key, value in overrides.items():
        last = key.rsplit(".", 1)[-1]
        unambiguous = not last.isdecimal() and sum(other.rsplit(".", 1)[-1] == last for other in overrides) == 1
        parts.append(f"{last if unambiguous else key}={_short(value)}")
    return ",".join(parts) or ALONE


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("name", fingerprint(value)[:6]))
    if isinstance(value, list | tuple):
        return "+".join(_short(item) for item in value) or "none"
    return str(value)


def _run_config(alone: Mapping[str, Any], name: str, overrides: Mapping[str, Any], seed: int) -> TrainConfig:
    raw = deepcopy(dict(alone)) | {"seed": seed}
    for key, value in overrides.items():
        if key.split(".")[0] in SHARED_BY_ALL:
            raise ConfigError(f"variant {name!r} sets {key!r}", hint="set it (seeds: `seeds:`) beside `variants:`")
        # The value goes through YAML, so that an override means the same here as after --set.
        apply_override(raw, f"{key}={yaml.safe_dump(value, default_flow_style=True)}")
    return TrainConfig.parse(raw, source=f"variant {name!r}")


def _refuse_duplicates(folders: list[str], keys: list[str], what: str) -> None:
    first: dict[str, str] = {}
    for folder, key in zip(folders, keys, strict=True):
        if key in first:
            raise ConfigError(f"variants {first[key]} and {folder} {what}", hint="drop one, or give it another `name`")
        first[key] = folder
