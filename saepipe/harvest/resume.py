"""Whether a folder can be harvested into: empty, half-made with the same config, finished, or to be extended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import zarr

from saepipe.data.config.base import differences
from saepipe.data.errors import ConfigError
from saepipe.data.folders import artifact
from saepipe.harvest.config import HarvestConfig

Resume = Literal["auto", "never", "must"]


@dataclass(frozen=True)
class Found:
    """What lies at the output folder: its attributes (empty if nothing), and whether nothing is left to do."""

    attributes: Mapping[str, Any]
    done: bool = False


def look_at(out: Path, config: HarvestConfig, resume: Resume) -> Found:
    """Compares the folder with the config.

    Raises:
        ConfigError: if it is something else, was made with another config, or `resume` forbids what is needed.
    """
    if not out.exists() or all(path.name == artifact.LOG or path.suffix == ".partial" for path in out.iterdir()):
        if resume == "must":
            raise ConfigError(f"nothing to resume at {out}", hint="--resume auto")
        return Found({})
    if not (out / "zarr.json").is_file() or "saepipe" not in (attrs := zarr.open_group(out, mode="r").attrs):
        raise ConfigError(f"{out} is not empty and holds no cache", hint="choose another --out")
    if resume == "never":
        raise ConfigError(f"{out} holds a cache already", hint="choose another --out, or --resume auto")
    attributes: Any = attrs["saepipe"]
    made_with = HarvestConfig.parse(attributes["config"], source=f"{out}/zarr.json")
    if changed := differences(made_with.identity(), config.identity()):
        raise ConfigError(f"{out} was begun with another config:\n  " + "\n  ".join(changed), hint="another --out")
    for key in ("num_tokens", "heldout_tokens"):
        if getattr(config, key) < getattr(made_with, key):
            raise ConfigError(
                f"{out} was asked for {key} = {getattr(made_with, key):,}, now for fewer: {getattr(config, key):,}",
                hint="a cache can be extended, not shortened; choose another --out",
            )
    same_length = (config.num_tokens, config.heldout_tokens) == (made_with.num_tokens, made_with.heldout_tokens)
    return Found(attributes, done=same_length and artifact.is_committed(out))


def check_same_model(found: Mapping[str, Any], identity: Mapping[str, Any], out: Path) -> None:
    """Raises ConfigError if the half-made cache came from other weights or another tokenizer.

    Not if the branch has only moved on to a commit that left them alone.
    """
    if changed := differences({**found["model"], "revision": None}, {**identity, "revision": None}):
        raise ConfigError(
            f"the model is not the one that {out} was begun with:\n  " + "\n  ".join(changed), hint="another --out"
        )
